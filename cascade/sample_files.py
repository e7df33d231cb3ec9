"""The files of sampled videos: a folder that can be written, and names that tell requests apart."""

import contextlib
import hashlib
import json
import logging
import math
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cascade.grid import Grid
from cascade.sample_record import is_same
from cascade.video import read_metadata

log = logging.getLogger(__name__)

#: Bytes of a prompt in a file name; a name has 255 at most.
SLUG_BYTES = 120
#: What is written to the folder to find whether anything can be.
PROBE_BYTES = 2**16
#: The least that a video takes on the disk, in bits per pixel of all its frames.
LEAST_BITS = 0.05


def check_folder(folder: Path) -> None:
    """Make the folder of the videos, before they are sampled.

    Raises:
        ValueError: it cannot be made or written, or its disk is full.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(PROBE_BYTES))
    except OSError as error:
        raise ValueError(
            f"out={folder}: cannot be written ({error.strerror}); set out= to another folder"
        ) from error


def slug(prompt: str) -> str:
    """The start of a prompt in any language as a part of a file name."""
    name = re.sub(r"[^\w]+", "-", prompt).strip("-")[:60]
    return name.encode()[:SLUG_BYTES].decode(errors="ignore").rstrip("-") or "untitled"


def check_space(folder: Path, grid: Grid, count: int) -> None:
    """Check that a folder's disk has room for `count` videos on a grid.

    Raises:
        ValueError: with what they take at the least, and what is free.
    """
    need = int(count * math.prod(grid.shape) * LEAST_BITS / 8)
    free = shutil.disk_usage(folder).free
    if need > free:
        raise ValueError(
            f"out={folder}: {count} videos of {grid} take at least {need / 1e6:.0f} MB, and "
            f"{free / 1e6:.0f} MB are free; free space, or set out= to another folder"
        )


def check_left(folder: Path, need: int) -> None:
    """Check that a folder's disk has room for the frames of stages that are still to be made.

    Raises:
        ValueError: with what they take, and what is free.
    """
    free = shutil.disk_usage(folder).free
    if need > free:
        raise ValueError(
            f"out={folder}: the frames of the stages take {need / 1e6:.3g} MB while they are made, "
            f"and {free / 1e6:.3g} MB are free; free space, or set out= to another folder"
        )


def to_make(
    folder: Path, records: Mapping[int, Mapping[str, Any]], *, name: str, overwrite: bool
) -> dict[int, Path]:
    """The files of the videos to make, by number; a file that is that very video is kept.

    Args:
        folder: where they are written.
        records: the record of each video, by its number.
        name: the name of a file, with `{}` for the number.
        overwrite: make those too that exist.

    Raises:
        ValueError: another file has that name.
    """
    paths = {}
    for number, record in records.items():
        path = folder / name.replace("{}", str(number))
        if path.exists() and not overwrite:
            if not is_same(_record(path), record):
                raise ValueError(
                    f"{path}: exists, and is not the video that is to be written; move it, set "
                    "out= to another folder, or overwrite=true"
                )
            log.info("%s is this video already; overwrite=true makes it again", path)
            continue
        paths[number] = path
    return paths


def _record(path: Path) -> Any:
    with contextlib.suppress(ValueError):
        return (read_metadata(path) or {}).get("cascade")
    return None


def request_id(record: Mapping[str, Any]) -> str:
    """Eight letters that differ for records of different requests, whatever seed and number."""
    settings = [record[name] for name in ("request", "sources", "bundles", "sampling")]
    text = json.dumps(settings, default=str, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=4).hexdigest()


def file_name(values: Mapping[str, Any], request: str, number: int | str = "{}") -> str:
    """The file of video `number` of a request; another request has another name."""
    return f"{slug(values['prompt'])}-{values['seed']}-{number}-{request}.{values['format']}"
