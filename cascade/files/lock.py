"""Files that one process has for itself, until it lets go or ends, however it ends."""

import contextlib
import fcntl
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

log = logging.getLogger(__name__)


def take(file: IO[Any] | int, *, busy: str, wait_s: float = 0.0) -> None:
    """Have an open file's lock for as long as it is open.

    A file system without locks (Lustre mounted without them) is no reason not to work: a warning
    says that nothing keeps a second process away.

    Raises:
        ValueError: `busy`, where another process has had it for `wait_s` seconds.
    """
    deadline = time.monotonic() + wait_s
    while True:
        try:
            return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() > deadline:
                raise ValueError(busy) from error
        except OSError as error:
            log.warning("this file system gives no locks (%s); nothing tells if %s", error, busy)
            return None
        time.sleep(0.05)


@contextlib.contextmanager
def locked(path: Path, *, busy: str, wait_s: float = 0.0) -> Iterator[None]:
    """Inside, `path`, an empty file made where there is none, is this process's.

    Raises:
        ValueError: as `take`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        take(file, busy=busy, wait_s=wait_s)
        yield


def is_locked(path: Path) -> bool:
    """Whether a process on this machine has the file's lock."""
    try:
        with path.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
