"""Reading by decord, which neither sees damage nor all of a container's structure.

It is used for videos alone that a full inspection has held against PyAV, frame by frame.
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
    """Whether this machine has decord; its wheels are for x86-64 Linux alone."""
    return decord is not None


class DecordReader:
    """One video, opened by its path; decord's reader of bytes crashes the process."""

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
        """The frames of these numbers, rotated as decord does, at the stored aspect ratio.

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
        """Give the file up."""
        del self._reader
