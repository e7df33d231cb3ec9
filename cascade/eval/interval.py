"""Shares of right answers and their differences, with confidence intervals."""

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Share:
    """`right` of `asked`, with its Wilson score interval."""

    right: int
    asked: int
    confidence: float = 0.95

    def __post_init__(self) -> None:
        if not 0 <= self.right <= self.asked or not 0 < self.confidence < 1:
            raise ValueError(
                f"share: needs 0 <= right <= asked and 0 < confidence < 1, got {self.right} right "
                f"of {self.asked} at {self.confidence}"
            )

    @property
    def value(self) -> float:
        """The share; NaN if `asked` is 0."""
        return self.right / self.asked if self.asked else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's score interval (Wilson 1927): inside [0, 1], and valid at 0 and 100 %."""
        if not self.asked:
            return 0.0, 1.0
        z, n, p = _z(self.confidence), self.asked, self.value
        centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
        half = z / (1 + z**2 / n) * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
        low = 0.0 if self.right == 0 else centre - half
        high = 1.0 if self.right == self.asked else centre + half
        return low, high

    def to_json(self) -> dict[str, Any]:
        """Counts, share and interval."""
        low, high = self.interval
        return {
            "right": self.right,
            "asked": self.asked,
            "share": self.value if self.asked else None,
            "low": low,
            "high": high,
            "confidence": self.confidence,
        }

    def __str__(self) -> str:
        if not self.asked:
            return "–"
        low, high = self.interval
        return f"{100 * self.value:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"


@dataclass(frozen=True, kw_only=True)
class Change:
    """Two systems compared on the same questions: how many only one of them got right."""

    lost: int
    gained: int
    asked: int
    confidence: float = 0.95

    @property
    def value(self) -> float:
        """The second share minus the first."""
        return (self.gained - self.lost) / self.asked if self.asked else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """The paired interval of Agresti and Min (2005), with 1/2 added to every cell."""
        n = self.asked + 2
        difference = self.gained - self.lost
        half = _z(self.confidence) * math.sqrt(self.gained + self.lost + 1 - difference**2 / n) / n
        return max(-1.0, difference / n - half), min(1.0, difference / n + half)

    @property
    def p_value(self) -> float:
        """McNemar's exact two-sided test of no change."""
        n, k = self.gained + self.lost, min(self.gained, self.lost)
        return min(1.0, 2 * sum(math.comb(n, i) for i in range(k + 1)) / (1 << n))

    def to_json(self) -> dict[str, Any]:
        """Counts, difference, interval and p."""
        low, high = self.interval
        return {
            "lost": self.lost,
            "gained": self.gained,
            "asked": self.asked,
            "difference": self.value if self.asked else None,
            "low": low,
            "high": high,
            "confidence": self.confidence,
            "p": self.p_value,
        }

    def __str__(self) -> str:
        low, high = (100 * bound for bound in self.interval)
        return f"{100 * self.value:+.1f} [{low:+.1f}, {high:+.1f}]"


def _z(confidence: float) -> float:
    return NormalDist().inv_cdf(0.5 + confidence / 2)
