"""The work of the child process: read a source, write its part, return its record.

Only the child imports the libraries that read sources.
"""

import hashlib
import importlib
from pathlib import Path

import av

from cascade.media.reason import DecodeError
from data.ingest.part import Record, dropped, source_part
from data.ingest.recipe import Recipe


def make_part(file: str, part: str, recipe: Recipe, *, thumbnails: bool) -> Record:
    """Write the clips of a source to `part`, if it has any; return the record of its windows.

    Raises:
        OSError: the part cannot be written.
    """
    from data.ingest.frame_reader import claimed_s
    from data.ingest.images import is_picture, make_picture
    from data.ingest.video import make_video

    try:
        with source_part(Path(part)) as out:
            make = make_picture if is_picture(file) else make_video
            record = make(file, out, recipe, thumbnails=thumbnails)
            return record | {"content": _content(file)}
    except DecodeError as error:
        return dropped("unreadable", str(error), claimed_s(file))
    except MemoryError:
        raise
    except av.FFmpegError as error:  # some are OSErrors, but none is one of the part
        return dropped("failed", f"does not encode: {error.strerror or error}", claimed_s(file))


def _content(file: str) -> str:
    """A hash of the bytes of a file."""
    try:
        with Path(file).open("rb") as data:
            return hashlib.file_digest(data, lambda: hashlib.blake2b(digest_size=8)).hexdigest()
    except OSError as error:
        raise DecodeError(f"cannot be read: {error.strerror or error}") from error


def check_libraries() -> None:
    """Import the libraries that read sources.

    Raises:
        ValueError: one of them cannot be imported, with the way out.
    """
    for name in ("cv2", "scenedetect.detectors", "imagehash", "rapidocr_onnxruntime"):
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise ValueError(
                f"shards: {name} cannot be imported ({error}); {_way_out(error)}"
            ) from error


def _way_out(error: ImportError) -> str:
    if "libGL" in str(error) or "libgthread" in str(error):
        return (
            "OpenCV needs a display library that this machine lacks: use its headless build (pip "
            "uninstall -y opencv-python; pip install opencv-python-headless), or install the "
            "library (Debian, Ubuntu: apt-get install libgl1 libglib2.0-0)"
        )
    return "install the requirements of make shards: pip install 'cascade[shards]'"
