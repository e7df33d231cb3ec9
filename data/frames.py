"""What a reader of a video or image is, and which of its frames a time wants."""

from collections.abc import Callable
from typing import Protocol

import numpy as np
from jaxtyping import Float64, Int64, UInt8

from data.probe import Timing

# More than decord's single precision is wrong by, less than a frame.
_TIE_S = 1e-4

Allocate = Callable[[tuple[int, int, int, int]], UInt8[np.ndarray, "n h w c"]]
"""Gives an array of a shape, to be filled with frames."""


def new_array(shape: tuple[int, int, int, int]) -> UInt8[np.ndarray, "n h w c"]:
    """Memory of its own."""
    return np.empty(shape, dtype=np.uint8)


class Reader(Protocol):
    """A video or image that is open."""

    @property
    def timing(self) -> Timing:
        """When its frames are shown."""

    def read(
        self, frames: Int64[np.ndarray, " n"], allocate: Allocate
    ) -> UInt8[np.ndarray, "n h w c"]:
        """The frames of these ascending numbers, upright, in RGB.

        Raises:
            DecodeError: with the reason.
        """

    def close(self) -> None:
        """Give the file up."""


def nearest(
    times: Float64[np.ndarray, " f"], wanted: Float64[np.ndarray, " n"]
) -> Int64[np.ndarray, " n"]:
    """Index of the frame nearest to each wanted time; of two equally near, the earlier."""
    return np.searchsorted((times[1:] + times[:-1]) / 2 + _TIE_S, wanted).astype(np.int64)
