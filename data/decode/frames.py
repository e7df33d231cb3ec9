"""Which frames the wanted times want, and where readers put them."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float64, Int64, UInt8

# More than decord's single precision is wrong by, less than a frame.
_TIE_S = 1e-4

Allocate = Callable[[tuple[int, int, int, int]], UInt8[np.ndarray, "n h w c"]]
"""Gives an array of a shape, to be filled with frames."""


def new_array(shape: tuple[int, int, int, int]) -> UInt8[np.ndarray, "n h w c"]:
    """Memory of its own."""
    return np.empty(shape, dtype=np.uint8)


def nearest(
    times: Float64[np.ndarray, " f"], wanted: Float64[np.ndarray, " n"]
) -> Int64[np.ndarray, " n"]:
    """Index of the frame nearest to each wanted time; of two equally near, the earlier."""
    return np.searchsorted((times[1:] + times[:-1]) / 2 + _TIE_S, wanted).astype(np.int64)
