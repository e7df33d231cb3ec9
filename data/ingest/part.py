"""The result of one source: a tar of its clips, and a record of all windows."""

import base64
import io
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

Record = dict[str, Any]
"""The data of a source and its windows, as JSON."""

_THUMBNAIL = 128


class SourcePart:
    """The tar of a source's clips; it does not exist if no clip was added, or after an error."""

    def __init__(self, path: str) -> None:
        self._path = Path(path)
        self._tar: tarfile.TarFile | None = None

    def add(self, name: str, data: bytes) -> None:
        """Add a clip."""
        if self._tar is None:
            self._tar = tarfile.open(self._path, "w")  # noqa: SIM115 (closed by __exit__)
        member = tarfile.TarInfo(name)
        member.size = len(data)
        self._tar.addfile(member, io.BytesIO(data))

    def __enter__(self) -> "SourcePart":
        return self

    def __exit__(self, kind: type[BaseException] | None, *raised: object) -> None:
        if self._tar is not None:
            self._tar.close()
            if kind is not None:
                self._path.unlink()


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
