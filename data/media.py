"""What runs in the sandbox: a video or image by its path, to time stamps and frames.

No torch here: every loader process has a child that imports this, and starts in a quarter second.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import UInt8

from cascade.times import nearest
from data.picture import PictureReader
from data.probe import Timing, is_image
from data.shared import SharedFile
from data.strict import StrictReader
from data.vouched import DecordReader, has_decord

Reader = StrictReader | PictureReader | DecordReader


@dataclass(frozen=True, kw_only=True)
class Media:
    """A video or image; its `number` tells it from what lay at this path before."""

    path: str
    number: int
    max_pixels: int
    decord: bool
    """Whether decord may read it."""


_open: tuple[Media, Reader] | None = None


def open_media(media: Media) -> Timing:
    """When the frames of a video or image are shown.

    Raises:
        DecodeError: with the reason.
    """
    return _reader(media).timing


def read_frames(
    media: Media, wanted_s: Sequence[float], memory: str
) -> tuple[tuple[int, int, int, int], list[int]]:
    """The shape (n, h, w, 3) of the frames left in `memory`, and which of them each time wants.

    Raises:
        DecodeError: with the reason.
    """
    reader = _reader(media)
    wanted = nearest(reader.timing.times, np.asarray(wanted_s, dtype=np.float64))
    frames, back = np.unique(wanted, return_inverse=True)

    def allocate(shape: tuple[int, int, int, int]) -> UInt8[np.ndarray, "n h w c"]:
        view = _memory(memory).view(int(np.prod(shape)))
        return np.frombuffer(view, dtype=np.uint8).reshape(shape)

    n, height, width, channels = reader.read(frames, allocate).shape
    return (n, height, width, channels), back.tolist()


def careful_reader(media: Media) -> StrictReader | PictureReader:
    """A reader that may be trusted with anything.

    Raises:
        DecodeError: with the reason.
    """
    with open(media.path, "rb") as file:  # noqa: PTH123 a path under /proc, opened as it is
        picture = is_image(file.read(16))
    kind = PictureReader if picture else StrictReader
    return kind(media.path, max_pixels=media.max_pixels)


def _reader(media: Media) -> Reader:
    """The reader of what was opened last, or a new one."""
    global _open
    if _open is None or _open[0] != media:
        if _open is not None:
            _open[1].close()
        _open = None
        vouched = media.decord and has_decord()
        _open = media, DecordReader(media.path) if vouched else careful_reader(media)
    return _open[1]


@lru_cache(maxsize=1)
def _memory(path: str) -> SharedFile:
    return SharedFile(path)
