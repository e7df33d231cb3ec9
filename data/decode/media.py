"""Functions that run in the sandbox: open a video or image by its path, and read its frames.

This module must not import torch: each loader process starts a child that imports it, in about a
quarter of a second.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from cascade.media.kinds import START, is_image
from cascade.media.reason import reasons
from cascade.times import nearest
from data.decode.decord import DecordReader, has_decord
from data.decode.pillow import PictureReader
from data.decode.probe import Timing
from data.decode.pyav import StrictReader
from data.decode.shared_memory import SharedFile

Reader = StrictReader | PictureReader | DecordReader


@dataclass(frozen=True, kw_only=True)
class Media:
    """A video or image at a path; `number` distinguishes it from earlier ones at the same path."""

    path: str
    number: int
    max_pixels: int
    decord: bool = False
    """Whether decord may read it."""


_open: tuple[Media, Reader] | None = None


@reasons()
def open_media(media: Media) -> Timing:
    """Open a video or image; return when its frames are shown.

    Raises:
        DecodeError: with the reason.
    """
    return _reader(media).timing


@reasons()
def read_frames(
    media: Media, wanted_s: Sequence[float], memory: str
) -> tuple[tuple[int, int, int, int], list[int]]:
    """Write frames to `memory`; return their shape (n, h, w, 3), and the frame for each time.

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
    """A strict reader, for any input.

    Raises:
        DecodeError: with the reason.
    """
    with Path(media.path).open("rb") as file:
        kind = PictureReader if is_image(file.read(START)) else StrictReader
    return kind(media.path, max_pixels=media.max_pixels)


def _reader(media: Media) -> Reader:
    """The open reader of this media, or a new one."""
    global _open
    if _open is None or _open[0] != media:
        if _open is not None:
            _open[1].close()
        _open = None
        verified = media.decord and has_decord()
        _open = media, DecordReader(media.path) if verified else careful_reader(media)
    return _open[1]


@lru_cache(maxsize=1)
def _memory(path: str) -> SharedFile:
    return SharedFile(path)
