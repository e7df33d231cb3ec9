"""Frames to a training clip: one frame rate, one window in time, and one crop in space.

A clip is scaled to cover its shape (for a stage that trains on crops: the stage's whole grid), and
then cropped to the shape.
"""

from collections.abc import Callable, Mapping, Sequence

from jaxtyping import UInt8
from torch import Tensor

from cascade.keyed import choice, uniform

Weights = Sequence[Sequence[float]]
"""Pairs of a value and its weight."""


class Clipper:
    """Draws the frame rate, zoom, window and crop of a clip, keyed by its position.

    `rates` are multiples of the stage's frame rate with weights; `zooms` are magnifications beyond
    the scale at which the shape is covered; both are conditions of the network. Without `random`
    the rate is the possible one nearest to 1, and there is no zoom, the first window, and the
    centre crop.
    """

    def __init__(
        self,
        *,
        seed: int,
        random: bool,
        rates: Weights = ((1, 1),),
        zooms: Weights = ((1, 1),),
    ) -> None:
        self.seed, self.random = seed, random
        self.rates = _weights("rates", rates)
        self.zooms = _weights("zooms", zooms)
        if min(self.zooms) < 1:
            raise ValueError(f"data.clips.zooms must be at least 1, got {sorted(self.zooms)}")

    @property
    def varies(self) -> bool:
        """Whether there are rates or zooms other than 1."""
        return {*self.rates, *self.zooms} != {1.0}

    def rate(self, suits: Callable[[float], bool], position: int) -> float:
        """One of the rates that suit, or 1 if none does."""
        return self._draw({r: w for r, w in self.rates.items() if suits(r)}, position, "rate")

    def zoom(self, suits: Callable[[float], bool], position: int) -> float:
        """One of the zooms that suit, or 1."""
        return self._draw({z: w for z, w in self.zooms.items() if suits(z)}, position, "zoom")

    def start(self, length: int, frames: int, position: int) -> int:
        """First of `frames` frames in a video of `length` frames."""
        return self._offset(length - frames, position, "window") if self.random else 0

    def cut(
        self, scaled: UInt8[Tensor, "c f y x"], height: int, width: int, position: int
    ) -> UInt8[Tensor, "c f h w"]:
        """The crop in space: the same rectangle of every frame; the centre if not random."""
        top = self._offset(scaled.shape[2] - height, position, "top")
        left = self._offset(scaled.shape[3] - width, position, "left")
        return scaled[:, :, top : top + height, left : left + width].contiguous()

    def _draw(self, weights: Mapping[float, float], position: int, purpose: str) -> float:
        if not self.random or len(weights) < 2:
            return min(weights, key=lambda value: abs(value - 1), default=1.0)
        return choice(weights, self.seed, position, purpose)

    def _offset(self, slack: int, position: int, purpose: str) -> int:
        """A keyed number from 0 to `slack`, or the middle."""
        if self.random:
            return int(uniform(self.seed, position, purpose) * (max(slack, 0) + 1))
        return max(slack, 0) // 2


def _weights(name: str, pairs: Weights) -> dict[float, float]:
    try:
        kept = {float(value): float(weight) for value, weight in pairs if weight}
    except (TypeError, ValueError):
        kept = {}
    if not kept or min(kept.values()) < 0 or min(kept) <= 0:
        raise ValueError(
            f"data.clips.{name} must be pairs of a positive value and a positive weight, such as "
            f"[[1,3],[0.5,1]]; got {pairs}"
        )
    return kept
