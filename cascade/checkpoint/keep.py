"""Which of a run's checkpoints are kept."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from cascade.checkpoint.manifest import Manifest


@dataclass(frozen=True, kw_only=True)
class Best:
    """The `k` checkpoints with the best finite value of a metric in their step's validation."""

    metric: str
    mode: Literal["min", "max"] = "min"
    k: int = 1

    def __post_init__(self) -> None:
        if self.mode not in ("min", "max") or self.k < 1:
            raise ValueError(
                f"checkpoint.keep.best: mode must be min or max and k at least 1, got "
                f"{self.mode} and {self.k}"
            )

    def takes(self, figures: Mapping[str, float], manifests: Sequence[Manifest]) -> bool:
        """Whether a new step with these metrics would be among the best."""
        mine = self._cost(figures)
        if mine is None:
            return False
        known = (self._cost(m.figures) for m in manifests)
        return sum(cost is not None and cost <= mine for cost in known) < self.k

    def of(self, manifests: Sequence[Manifest]) -> set[int]:
        """The steps of the best; of equal values, the earlier step."""
        costs = ((self._cost(m.figures), m.step) for m in manifests)
        ranked = sorted((cost, step) for cost, step in costs if cost is not None)
        return {step for _, step in ranked[: self.k]}

    def _cost(self, figures: Mapping[str, float]) -> float | None:
        """The metric, where less is better; None if it is missing or not finite."""
        value = figures.get(self.metric, math.nan)
        if not math.isfinite(value):
            return None
        return value if self.mode == "min" else -value


@dataclass(frozen=True, kw_only=True)
class Keep:
    """Keeps every checkpoint that at least one of three rules selects.

    Args:
        last: the newest so many; with two or more, a damaged newest one can be replaced.
        every: those at multiples of so many steps, permanently.
        best: those of the best validations, which are also saved right after the validation.
    """

    last: int = 2
    every: int | None = None
    best: Best | None = None

    def __post_init__(self) -> None:
        if self.last < 1 or (self.every is not None and self.every < 1):
            raise ValueError(
                f"checkpoint.keep: last and every must be at least 1, got {self.last} and "
                f"{self.every}"
            )

    def unwanted(self, manifests: Sequence[Manifest]) -> set[int]:
        """The steps of checkpoints that no rule selects."""
        steps = sorted(m.step for m in manifests)
        kept = set(steps[-self.last :])
        if self.every is not None:
            kept |= {step for step in steps if step % self.every == 0}
        if self.best is not None:
            kept |= self.best.of(manifests)
        return set(steps) - kept
