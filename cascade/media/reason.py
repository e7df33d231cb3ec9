"""The error of every reader: the reason why the bytes of a video or image are not used."""

from collections.abc import Iterator
from contextlib import contextmanager

import av

from cascade.media.kinds import foreign

MAX_PIXELS = 8192 * 4320
MIN_SIDE = 8
MAX_SIDE = 65_535  # an index stores sides as 16 bits


class DecodeError(ValueError):
    """A video or image cannot be decoded; the text is the reason."""


@contextmanager
def reasons() -> Iterator[None]:
    """Turns every exception that reading raises into a `DecodeError`.

    Libraries raise anything for damaged bytes. The limit of the process's memory stays a
    `MemoryError`.
    """
    try:
        yield
    except (DecodeError, MemoryError):
        raise
    except av.FFmpegError as error:
        raise DecodeError(f"does not decode: {error.strerror or error}") from error
    except OSError as error:
        # Pillow raises it for damaged bytes too, without a number.
        what = "cannot be read" if error.errno else "does not decode"
        raise DecodeError(f"{what}: {error.strerror or error}") from error
    except Exception as error:
        raise DecodeError(f"does not decode ({type(error).__name__}: {error})") from error


def check_size(width: int, height: int, *, max_pixels: int = MAX_PIXELS) -> None:
    """Check the frame size in a header before memory is allocated for it.

    Raises:
        DecodeError: too many pixels, or a side that is too small or too large.
    """
    if width * height > max_pixels:
        raise DecodeError(f"claims {width}×{height} pixels, more than the limit of {max_pixels}")
    if max(width, height) > MAX_SIDE:
        raise DecodeError(f"claims {width}×{height} pixels; no side may exceed {MAX_SIDE}")
    if min(width, height) < MIN_SIDE:
        raise DecodeError(f"has {width}×{height} pixels; each side must have at least {MIN_SIDE}")


def refuse_foreign(start: bytes) -> None:
    """Refuse a file by its first bytes if they are of a kind that is not read.

    Raises:
        DecodeError: it is empty, or of a known other kind; the text says which.
    """
    if not start:
        raise DecodeError("is empty: it has 0 bytes")
    if name := foreign(start):
        raise DecodeError(name)
