"""Decoding by decord, which does not detect damage and ignores parts of a container's structure.

It is used only for videos whose frames an inspection at depth `decord` has compared with those of
strict decoding.
"""

import zlib
from collections.abc import Callable

import numpy as np
from jaxtyping import Int64, UInt8

from cascade.media.reason import DecodeError
from data.decode.frames import Allocate, new_array
from data.decode.probe import Header, Timing
from data.decode.pyav import StrictReader

try:
    import decord

    decord.logging.set_level(decord.logging.QUIET)
except ImportError:
    decord = None

MAX_DIFFERENCE = 2.0
"""Largest mean difference of a frame's values, of 255, at which two decoders agree."""
_TIME_S = 1e-3
_CHUNK_BYTES = 2**26
_SEEKS = 8
# decord 0.6.0 hangs on transport streams, returns neighbouring frames for AVI (and for edit lists
# and open groups of pictures), and does not support the others.
_UNSUPPORTED = frozenset({"mpegts", "avi", "gif", "ogg"})


def has_decord() -> bool:
    """Whether decord is installed; its wheels are for x86-64 Linux only."""
    return decord is not None


class RefusedError(DecodeError):
    """decord cannot read a video."""


class DecordReader:
    """A video opened by its path; decord's reader for bytes crashes the process.

    `timing` holds decord's times, in single precision.
    """

    def __init__(self, path: str) -> None:
        try:
            self._reader = decord.VideoReader(path, num_threads=1)
            spans = self._reader.get_frame_timestamp(np.arange(len(self._reader)))
        except (decord.DECORDError, RuntimeError) as error:
            raise RefusedError(f"decord refuses: {error}") from error
        times = (spans[:, 0] - spans[0, 0]).astype(np.float64)
        self.timing = Timing(
            kind="video", times=times, duration=float(spans[-1, 1] - spans[0, 0]) or 1.0
        )

    def read(
        self, frames: Int64[np.ndarray, " n"], allocate: Allocate
    ) -> UInt8[np.ndarray, "n h w c"]:
        """The frames of these numbers, rotated as decord rotates, at the stored aspect ratio.

        Raises:
            RefusedError: with the reason.
        """
        try:
            batch = self._reader.get_batch(frames)
        except (decord.DECORDError, RuntimeError) as error:
            raise RefusedError(f"decord refuses: {error}") from error
        pixels = allocate(batch.shape)
        batch.copyto(decord.nd.zerocopy_from_numpy(pixels))  # asnumpy() takes twice as long
        return pixels

    def close(self) -> None:
        """Close the file."""
        del self._reader


def agrees(strict: StrictReader, beat: Callable[[], None]) -> bool:
    """Whether decord returns the frames of a strict reader, in order and in random access.

    `beat` is called for every part of the video.

    Raises:
        DecodeError: the strict reader finds damage.
    """
    header = strict.header
    if not (has_decord() and _supported(header)):
        return False
    try:
        reader = DecordReader(strict.path)
        times = reader.timing.times
        if len(times) != header.frames or np.abs(times - header.times).max() > _TIME_S:
            return False
        sums: list[int] = []
        step = max(1, _CHUNK_BYTES // (3 * header.width * header.height))
        for start in range(0, header.frames, step):
            numbers = np.arange(start, min(start + step, header.frames))
            ours, theirs = strict.read(numbers, new_array), reader.read(numbers, new_array)
            if ours.shape != theirs.shape or max(map(_difference, ours, theirs)) > MAX_DIFFERENCE:
                return False
            sums += [zlib.crc32(one) for one in theirs]
            beat()
        return _repeats(DecordReader(strict.path), sums)
    except RefusedError:
        return False


def _supported(header: Header) -> bool:
    """Whether decord supports the container, and no frame is hidden or shown before its key."""
    packets = header.packets
    earliest = np.minimum.accumulate(packets.pts[::-1])[::-1]
    closed = bool((earliest == packets.pts)[packets.key].all())
    return header.container not in _UNSUPPORTED and bool(packets.shown.all()) and closed


def _repeats(reader: DecordReader, sums: list[int]) -> bool:
    """Whether frames asked for out of order are those that were read in order."""
    sparse = np.unique(np.linspace(0, len(sums) - 1, 2 * _SEEKS).round().astype(np.int64))
    jumps = [sparse, *(place[None] for place in sparse[::-2])]
    return all(
        zlib.crc32(pixels) == sums[place]
        for places in jumps
        for place, pixels in zip(places, reader.read(places, new_array), strict=True)
    )


def _difference(a: UInt8[np.ndarray, "h w c"], b: UInt8[np.ndarray, "h w c"]) -> float:
    return float(np.abs(a.astype(np.int16) - b).mean())
