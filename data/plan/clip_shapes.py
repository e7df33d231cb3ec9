"""The shapes of clips at native aspect ratio, and the choice of a shape for each clip.

All shapes of one length have about as many pixels as the stage's grid, so they cost about the
same; their sides are multiples of the network's. A clip gets the shape that keeps the most of its
pixels and wastes the least of the token budget.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Integer

Kind = Literal["video", "image"]
BINS = 4096
"""Number of aspect-ratio bins: a resolution of 0.15 % over a range of a factor of 500."""
_LEAST = 0.75
_RANGE = math.log(500) / 2


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Frames, height and width of a clip; an image has one frame."""

    kind: Kind
    frames: int
    height: int
    width: int

    def tokens(self, multiple: Sequence[int]) -> int:
        """Number of patches of size `multiple`; an image fills a whole patch in time."""
        f, h, w = multiple
        return max(1, self.frames // f) * (self.height // h) * (self.width // w)

    def __str__(self) -> str:
        return f"{self.frames}×{self.height}×{self.width}"


Side = tuple[int, int]


def native(height: int, width: int, multiple: Sequence[int], max_aspect: float) -> list[Side]:
    """The maximal (height, width) pairs of at most the area of height × width.

    A pair is maximal if no other pair contains it. Sides are multiples of `multiple` (frames,
    height, width), and aspect ratios are at most `max_aspect`.
    """
    _, step_h, step_w = multiple
    area = height * width
    found = []
    for h in range(step_h, area // step_w + 1, step_h):
        w = area // h // step_w * step_w
        if w and max(h / w, w / h) <= max_aspect:
            found.append((h, w))
    taller = {w: max(h for h, w2 in found if w2 == w) for _, w in found}
    return sorted((h, w) for w, h in taller.items()) or [(height, width)]


def near(height: int, width: int, multiple: Sequence[int], max_aspect: float) -> list[Side]:
    """All (height, width) pairs of an area between `_LEAST` and 1 times height × width.

    There are more than of `native`, so that few pixels are cropped; this is for packing, where a
    smaller clip wastes no budget.
    """
    _, step_h, step_w = multiple
    area = height * width
    return [
        (h, w)
        for h in range(step_h, area // step_w + 1, step_h)
        for w in range(step_w, area // h + 1, step_w)
        if h * w >= _LEAST * area and max(h / w, w / h) <= max_aspect
    ] or [(height, width)]


def kept(
    shape: Float[np.ndarray, "*#n"], clip: Float[np.ndarray, "*#n"]
) -> Float[np.ndarray, "*n"]:
    """The share of a clip's pixels that a shape keeps, from the logs of both aspect ratios."""
    return np.asarray(np.exp(-np.abs(shape - clip)))


def log_aspect(
    height: Integer[np.ndarray, " n"], width: Integer[np.ndarray, " n"]
) -> Float[np.ndarray, " n"]:
    """log(width / height), in single precision."""
    ratio = np.divide(np.maximum(width, 1), np.maximum(height, 1), dtype=np.float32)
    return np.asarray(np.log(ratio, out=ratio))


def bins(aspect: Float[np.ndarray, " n"]) -> Integer[np.ndarray, " n"]:
    """The bin of each log aspect ratio."""
    place = (aspect + np.float32(_RANGE)) * np.float32(BINS / (2 * _RANGE))
    return np.asarray(place.clip(0, BINS - 1, out=place).astype(np.int16))


def choose(sides: Sequence[Side], *, waste: float = 1.0) -> Integer[np.ndarray, " bins"]:
    """For each aspect-ratio bin, the number of the pair that keeps the most and wastes the least.

    `waste` is the exponent of a pair's relative area in the score: the weight of wasted budget
    against cropped pixels.
    """
    centre = (np.arange(BINS) + 0.5) * (2 * _RANGE / BINS) - _RANGE
    heights, widths = np.array(sides, dtype=np.float64).T
    area = heights * widths
    score = kept(np.log(widths / heights)[:, None], centre[None])
    score *= ((area / area.max()) ** waste)[:, None]
    return np.asarray(score.argmax(axis=0))


def consolidate(
    sides: Sequence[Side], counts: Integer[np.ndarray, " bins"], least: int, most: int
) -> list[Side]:
    """Reduce the pairs to at most `most` (at least one) that have at least `least` clips each.

    `counts` are the clips per aspect-ratio bin. The pair with the fewest clips is removed
    first, and its clips get their next best pair.
    """
    left = list(sides)
    while len(left) > 1:
        taken = np.bincount(choose(left), weights=counts, minlength=len(left))
        rarest = int(taken.argmin())
        if taken[rarest] >= least and len(left) <= most:
            break
        left.pop(rarest)
    return left
