"""Inspection of a video or image: it is decoded to a chosen depth, inside the sandbox."""

import zlib
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Int64, UInt8

from data.decode.decord import DecordReader, has_decord
from data.decode.frames import new_array
from data.decode.media import Media, careful_reader
from data.decode.probe import DecodeError, Header
from data.decode.sandbox import beat

Depth = Literal["probe", "keyframes", "full"]

MAX_DIFFERENCE = 2.0
"""Largest mean difference of a frame's values, of 255, at which two decoders agree."""
_TIME_S = 1e-3
_CHUNK_BYTES = 2**26
_SEEKS = 8


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
    decord: bool
    """Whether decord returns the same frames at the same times; known after a full inspection."""


def inspect_media(media: Media, depth: Depth, *, beside_decord: bool) -> Inspection:
    """Decode the first frame, every key frame by seeking, or every frame.

    At depth `full` with `beside_decord`, decord's frames are compared with PyAV's.

    Raises:
        DecodeError: with the reason.
    """
    reader = careful_reader(media)
    header, wanted = reader.header, _wanted(reader.header, depth)
    step = max(1, _CHUNK_BYTES // (3 * header.width * header.height)) if depth == "full" else 1
    judge = _Judge(media.path, header) if depth == "full" and beside_decord else None
    shape = (0, 0)
    for start in range(0, len(wanted), step):
        frames = wanted[start : start + step]
        pixels = reader.read(frames, new_array)
        shape = pixels.shape[1:3]
        if judge is not None:
            judge.compare(frames, pixels)
        beat()
    reader.close()
    timing = header.timing
    return Inspection(
        kind=header.kind,
        codec=header.codec,
        width=shape[1],
        height=shape[0],
        frames=timing.frames,
        fps=timing.fps,
        duration=timing.duration,
        decord=judge is not None and judge.agrees(),
    )


def _wanted(header: Header, depth: Depth) -> Int64[np.ndarray, " n"]:
    """Numbers of the frames to decode."""
    if depth == "full":
        return np.arange(header.frames)
    keys = header.packets.pts[header.packets.key & header.packets.shown]
    first = np.zeros(1, dtype=np.int64)
    return first if depth == "probe" else np.union1d(first, np.searchsorted(header.pts, keys))


class _Judge:
    """Compares decord with PyAV frame by frame, then with itself in random access."""

    def __init__(self, path: str, header: Header) -> None:
        self.path, self.header = path, header
        self.reader: DecordReader | None = None
        self.sums: list[int] = []
        if header.kind == "image" or not header.decord or not has_decord():
            return
        try:
            self.reader = DecordReader(path)
        except DecodeError:
            return
        times = self.reader.timing.times
        if len(times) != header.frames or np.abs(times - header.times).max() > _TIME_S:
            self.reader = None

    def compare(
        self, frames: Int64[np.ndarray, " n"], pixels: UInt8[np.ndarray, "n h w c"]
    ) -> None:
        """Compare some frames; the first difference ends the comparison."""
        if self.reader is None:
            return
        try:
            others = self.reader.read(frames, new_array)
        except DecodeError:
            self.reader = None
            return
        if others.shape != pixels.shape or max(map(_difference, others, pixels)) > MAX_DIFFERENCE:
            self.reader = None
        self.sums += [zlib.crc32(other) for other in others]

    def agrees(self) -> bool:
        """Whether all frames agreed, and decord returns the same frames in random access."""
        if self.reader is None:
            return False
        reader, last = DecordReader(self.path), self.header.frames - 1
        sparse = np.unique(np.linspace(0, last, 2 * _SEEKS).round().astype(np.int64))
        jumps = [sparse, *(place[None] for place in sparse[::-2])]
        return all(
            zlib.crc32(pixels) == self.sums[place]
            for places in jumps
            for place, pixels in zip(places, reader.read(places, new_array), strict=True)
        )


def _difference(a: UInt8[np.ndarray, "h w c"], b: UInt8[np.ndarray, "h w c"]) -> float:
    return float(np.abs(a.astype(np.int16) - b).mean())
