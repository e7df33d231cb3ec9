"""The frame nearest to each requested time, and the arrays that readers fill."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float64, Int64, UInt8

# Larger than the rounding error of decord's single precision, smaller than a frame.
_TIE_S = 1e-4

Allocate = Callable[[tuple[int, int, int, int]], UInt8[np.ndarray, "n h w c"]]
"""Returns an array of a shape, to be filled with frames."""


def new_array(shape: tuple[int, int, int, int]) -> UInt8[np.ndarray, "n h w c"]:
    """A newly allocated array."""
    return np.empty(shape, dtype=np.uint8)


def nearest(
    times: Float64[np.ndarray, " f"], wanted: Float64[np.ndarray, " n"]
) -> Int64[np.ndarray, " n"]:
    """Index of the frame nearest to each requested time; the earlier of two equally near ones."""
    return np.searchsorted((times[1:] + times[:-1]) / 2 + _TIE_S, wanted).astype(np.int64)
