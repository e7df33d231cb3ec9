"""Files that appear whole or not at all, whatever is killed; what is damaged is named."""

import contextlib
import json
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A hidden path beside `path` to write to; it takes its place when all is written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def write_whole(path: Path, data: bytes) -> None:
    """Write these bytes as a file."""
    with replacing(path) as part:
        part.write_bytes(data)


def read_json(path: Path, *, out: str = "") -> Any:
    """What a JSON file holds.

    Raises:
        ValueError: it is damaged; with `out`, the way out.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}{out}") from error
