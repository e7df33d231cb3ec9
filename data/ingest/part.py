"""The result of one source: a tar of its clips, and a record of all windows."""

import base64
import io
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

Record = dict[str, Any]
"""The data of a source and its windows, as JSON."""

_THUMBNAIL = 128


class SourcePart:
    """The tar of a source's clips, while it is written."""

    def __init__(self, tar: tarfile.TarFile) -> None:
        self._tar = tar
        self.empty = True

    def add(self, name: str, data: bytes) -> None:
        """Add a clip."""
        member = tarfile.TarInfo(name)
        member.size = len(data)
        self._tar.addfile(member, io.BytesIO(data))
        self.empty = False


@contextmanager
def source_part(path: Path) -> Iterator[SourcePart]:
    """A new part; its file does not exist if no clip was added, or after an error."""
    part = None
    try:
        with tarfile.open(path, "w") as tar:
            part = SourcePart(tar)
            yield part
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    if part.empty:
        path.unlink()


def dropped(reason: str, detail: str, duration: float | None = None) -> Record:
    """The record of a source that is dropped as a whole."""
    return {"kind": "", "reason": reason, "detail": detail, "duration": duration, "windows": []}


def thumbnail(pixels: UInt8[np.ndarray, "h w 3"]) -> str:
    """A small JPEG in base 64."""
    image = Image.fromarray(pixels)
    image.thumbnail((2 * _THUMBNAIL, _THUMBNAIL))
    file = io.BytesIO()
    image.save(file, "jpeg", quality=80)
    return base64.b64encode(file.getvalue()).decode()
