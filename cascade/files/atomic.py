"""Atomic files and folders: complete or absent, even if the process is killed while writing."""

import contextlib
import fcntl
import glob
import json
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A hidden path next to `path` to write to; it replaces `path` when the block succeeds.

    The file exists and is locked, so that `remove_parts` keeps it, unless the block puts another
    file in its place, as safetensors does.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        with part.open("xb") as file:
            with contextlib.suppress(OSError):  # a file system without locks
                fcntl.flock(file, fcntl.LOCK_EX)
            yield part
            part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def remove_parts(path: Path) -> None:
    """Remove the hidden parts of a file that killed processes have left; those in use stay."""
    for part in path.parent.glob(f".{glob.escape(path.name)}.????????.part"):
        with contextlib.suppress(OSError), part.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            part.unlink()


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file atomically."""
    with replacing(path) as part:
        part.write_bytes(data)


def read_json(path: Path, *, out: str = "") -> Any:
    """The content of a JSON file.

    Raises:
        ValueError: it is damaged; the message ends with `out`, the way out.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}{out}") from error


@contextlib.contextmanager
def replacing_folder(folder: Path) -> Iterator[Path]:
    """A hidden folder to write to, which replaces `folder` at the end of the context.

    After an error `folder` is unchanged. A kill between the two renames leaves no folder of that
    name, but the old and the new one, both complete, as hidden folders beside it. The next save
    removes such leftovers. Two processes must not write the same folder at the same time.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.", suffix=".part"))
    old = part.with_suffix(".old")
    try:
        yield part
        part.chmod(0o755)
        try:
            if folder.exists():
                folder.replace(old)
            part.replace(folder)
        except BaseException:
            if old.exists():
                old.replace(folder)
            raise
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    for rest in folder.parent.iterdir():
        if re.fullmatch(rf"\.{re.escape(folder.name)}\.\w{{8}}\.(part|old)", rest.name):
            shutil.rmtree(rest, ignore_errors=True)
