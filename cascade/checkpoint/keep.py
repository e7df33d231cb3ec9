"""Which of a run's checkpoints stay."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from cascade.checkpoint.manifest import Manifest


@dataclass(frozen=True, kw_only=True)
class Best:
    """The `k` checkpoints with the best figure of the validation at their step, if it is finite."""

    metric: str
    mode: Literal["min", "max"] = "min"
    k: int = 1

    def __post_init__(self) -> None:
        if self.mode not in ("min", "max") or self.k < 1:
            raise ValueError(
                f"checkpoint.keep.best: mode is min or max, k at least 1; got {self.mode}, {self.k}"
            )

    def takes(self, figures: Mapping[str, float], manifests: Sequence[Manifest]) -> bool:
        """Whether a step with these figures is among them."""
        mine = self._cost(figures)
        if mine is None:
            return False
        known = (self._cost(m.figures) for m in manifests)
        return sum(cost is not None and cost <= mine for cost in known) < self.k

    def of(self, manifests: Sequence[Manifest]) -> set[int]:
        """Their steps; of equals the earlier."""
        costs = ((self._cost(m.figures), m.step) for m in manifests)
        ranked = sorted((cost, step) for cost, step in costs if cost is not None)
        return {step for _, step in ranked[: self.k]}

    def _cost(self, figures: Mapping[str, float]) -> float | None:
        """The figure, less being better; none where there is none, or it is not finite."""
        value = figures.get(self.metric, math.nan)
        if not math.isfinite(value):
            return None
        return value if self.mode == "min" else -value


@dataclass(frozen=True, kw_only=True)
class Keep:
    """A checkpoint stays that any of three rules wants.

    Args:
        last: so many of the newest; with two or more, a damaged newest has one before it.
        every: those at multiples of so many steps, for ever.
        best: those of the best validations; saved right after one, besides.
    """

    last: int = 2
    every: int | None = None
    best: Best | None = None

    def __post_init__(self) -> None:
        if self.last < 1 or (self.every is not None and self.every < 1):
            raise ValueError(
                f"checkpoint.keep: last and every must be at least 1, got {self.last}, {self.every}"
            )

    def unwanted(self, manifests: Sequence[Manifest]) -> set[int]:
        """The steps of those that may go."""
        steps = sorted(m.step for m in manifests)
        kept = set(steps[-self.last :])
        if self.every is not None:
            kept |= {step for step in steps if step % self.every == 0}
        if self.best is not None:
            kept |= self.best.of(manifests)
        return set(steps) - kept
