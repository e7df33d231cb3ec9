"""Inspection of a video or image: it is decoded to a chosen depth, inside the sandbox."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Int64

from cascade.media.reason import reasons
from data.decode.decord import agrees
from data.decode.frames import new_array
from data.decode.media import Media, careful_reader
from data.decode.probe import Header
from data.decode.pyav import StrictReader
from data.decode.sandbox import beat

Depth = Literal["probe", "keyframes", "full", "decord"]


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """Properties of a video or image as shown: upright, with square pixels."""

    kind: Literal["video", "image"]
    codec: str
    width: int
    height: int
    frames: int
    fps: float
    duration: float
    """Seconds from the first frame shown to the end of the last."""
    decord: bool = False
    """Whether decord returns the same frames at the same times; known at depth `decord`."""


@reasons()
def inspect_media(media: Media, depth: Depth) -> Inspection:
    """Decode the first frame, every key frame by seeking, or every frame.

    At depth `decord` every frame is decoded, and then compared with decord's.

    Raises:
        DecodeError: with the reason.
    """
    reader = careful_reader(media)
    header = reader.header
    same = False
    if depth in ("full", "decord") and isinstance(reader, StrictReader):
        width, height = reader.verify(beat)
        same = depth == "decord" and agrees(reader, beat)
    else:
        for number in _wanted(header, depth):
            height, width = reader.read(number[None], new_array).shape[1:3]
            beat()
    reader.close()
    timing = header.timing
    return Inspection(
        kind=header.kind,
        codec=header.codec,
        width=width,
        height=height,
        frames=timing.frames,
        fps=timing.fps,
        duration=timing.duration,
        decord=same,
    )


def _wanted(header: Header, depth: Depth) -> Int64[np.ndarray, " n"]:
    """Numbers of the frames to decode."""
    first = np.zeros(1, dtype=np.int64)
    if depth == "probe":
        return first
    keys = header.packets.pts[header.packets.key & header.packets.shown]
    return np.union1d(first, np.searchsorted(header.pts, keys))
