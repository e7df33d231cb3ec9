"""Decoding by decord, which does not detect damage and ignores parts of a container's structure.

It is used only for videos whose frames a full inspection has compared with PyAV's.
"""

import numpy as np
from jaxtyping import Int64, UInt8

from data.decode.frames import Allocate
from data.decode.probe import DecodeError, Timing

try:
    import decord

    decord.logging.set_level(decord.logging.QUIET)
except ImportError:
    decord = None


def has_decord() -> bool:
    """Whether decord is installed; its wheels are for x86-64 Linux only."""
    return decord is not None


class DecordReader:
    """A video opened by its path; decord's reader for bytes crashes the process."""

    def __init__(self, path: str) -> None:
        try:
            self._reader = decord.VideoReader(path, num_threads=1)
            spans = self._reader.get_frame_timestamp(np.arange(len(self._reader)))
        except (decord.DECORDError, RuntimeError) as error:
            raise DecodeError(f"decord refuses: {error}") from error
        times = (spans[:, 0] - spans[0, 0]).astype(np.float64)
        self.timing = Timing(
            kind="video", times=times, duration=float(spans[-1, 1] - spans[0, 0]) or 1.0
        )

    def read(
        self, frames: Int64[np.ndarray, " n"], allocate: Allocate
    ) -> UInt8[np.ndarray, "n h w c"]:
        """The frames of these numbers, rotated as decord rotates, at the stored aspect ratio.

        Raises:
            DecodeError: with the reason.
        """
        try:
            batch = self._reader.get_batch(frames)
        except (decord.DECORDError, RuntimeError) as error:
            raise DecodeError(f"decord refuses: {error}") from error
        pixels = allocate(batch.shape)
        batch.copyto(decord.nd.zerocopy_from_numpy(pixels))  # asnumpy() takes twice as long
        return pixels

    def close(self) -> None:
        """Close the file."""
        del self._reader
