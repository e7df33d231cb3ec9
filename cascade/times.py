"""Which frames of a video stand for wanted times; one rule for training clips and prompts.

No torch here: every loader process has a child that imports this, and starts in a quarter second.
"""

import numpy as np
from jaxtyping import Float64, Int64

#: Seconds; more than decord's single precision is wrong by, less than a frame.
_TIE_S = 1e-4
#: In frames: how much earlier than a clip's end its video may end, and rounding.
SLACK = 0.5 + 1e-4


def nearest(
    times: Float64[np.ndarray, " f"], wanted: Float64[np.ndarray, " n"]
) -> Int64[np.ndarray, " n"]:
    """Index of the frame nearest to each wanted time; of two equally near, the earlier."""
    return np.searchsorted((times[1:] + times[:-1]) / 2 + _TIE_S, wanted).astype(np.int64)


def clip_length(duration: float, fps: float) -> int:
    """How many frames at `fps` a video of `duration` seconds gives; half a frame may lack."""
    return max(1, int(duration * fps + SLACK))
