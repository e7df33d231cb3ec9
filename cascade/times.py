"""Which frames of a video are taken at given times; one rule for training clips and prompts.

This module does not import torch, because every loader process has a child that imports it and
must start fast.
"""

import numpy as np
from jaxtyping import Float64, Int64

#: Seconds; above rounding errors of time stamps, below the length of a frame.
_TIE_S = 1e-4
#: In frames: by how much a video may end before its clip does; the small part is for rounding.
SLACK = 0.5 + 1e-4


def nearest(
    times: Float64[np.ndarray, " f"], wanted: Float64[np.ndarray, " n"]
) -> Int64[np.ndarray, " n"]:
    """Index of the frame nearest to each wanted time; of two equally near, the earlier."""
    return np.searchsorted((times[1:] + times[:-1]) / 2 + _TIE_S, wanted).astype(np.int64)


def clip_length(duration: float, fps: float) -> int:
    """How many frames at `fps` a video of `duration` seconds gives; half a frame may be missing."""
    return max(1, int(duration * fps + SLACK))
