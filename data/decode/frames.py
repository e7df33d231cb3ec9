"""The arrays that readers fill with frames."""

from collections.abc import Callable

import numpy as np
from jaxtyping import UInt8

Allocate = Callable[[tuple[int, int, int, int]], UInt8[np.ndarray, "n h w c"]]
"""Returns an array of a shape, to be filled with frames."""


def new_array(shape: tuple[int, int, int, int]) -> UInt8[np.ndarray, "n h w c"]:
    """A newly allocated array."""
    return np.empty(shape, dtype=np.uint8)
