"""File locks, held by one process until it releases them or ends, however it ends."""

import contextlib
import fcntl
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

log = logging.getLogger(__name__)


def acquire(file: IO[Any] | int, *, busy: str, wait_s: float = 0.0) -> None:
    """Acquire an open file's lock, which lasts until the file is closed.

    On a file system without locks (Lustre mounted without them) it logs a warning and continues.

    Raises:
        ValueError: with the message `busy`, if another process holds the lock after `wait_s`
            seconds.
    """
    deadline = time.monotonic() + wait_s
    while True:
        try:
            return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() > deadline:
                raise ValueError(busy) from error
        except OSError as error:
            log.warning(
                "this file system does not support locks (%s); not checked: %s", error, busy
            )
            return None
        time.sleep(0.05)


@contextlib.contextmanager
def locked(path: Path, *, busy: str, wait_s: float = 0.0) -> Iterator[None]:
    """Inside, this process holds the lock of the file `path`, which is created if missing.

    Raises:
        ValueError: as `acquire`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        acquire(file, busy=busy, wait_s=wait_s)
        yield


def is_locked(path: Path) -> bool:
    """Whether a process on this machine holds the file's lock."""
    try:
        with path.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
