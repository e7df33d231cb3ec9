"""The budget of captions, and their cost so far."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from data.recaption.ledger import Usage


@dataclass(frozen=True, kw_only=True)
class Budget:
    """The limits of a run; `prices` are per million tokens.

    `limit` is the largest number of clips in this call; the cost is estimated after
    `estimate_from` clips.
    """

    prices: Mapping[str, float]
    max_cost: float | None = None
    limit: int | None = None
    estimate_from: int = 4


@dataclass(kw_only=True)
class CaptionTally:
    """Counts of this call; `used` and `answered` include earlier calls."""

    captioned: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    retried: Counter[str] = field(default_factory=Counter)
    used: dict[str, Usage] = field(default_factory=dict)
    answered: Counter[str] = field(default_factory=Counter)
    left: Counter[str] = field(default_factory=Counter)

    def cost(self, prices: Mapping[str, float]) -> float:
        """The cost of all answers."""
        return sum(used.cost(prices) for used in self.used.values())

    def mean_cost(self, recipe: str, prices: Mapping[str, float]) -> float:
        """The mean cost of one clip's captions, including invalid answers."""
        return self.used[recipe].cost(prices) / max(1, self.answered[recipe])

    def estimate(self, prices: Mapping[str, float]) -> tuple[float, float, float]:
        """The estimated (cost, prompt tokens, completion tokens) of the remaining requests."""
        cost, prompt, completion = 0.0, 0.0, 0.0
        for recipe, left in self.left.items():
            share = left / max(1, self.answered[recipe])
            cost += left * self.mean_cost(recipe, prices)
            prompt += share * self.used[recipe].prompt
            completion += share * self.used[recipe].completion
        return cost, prompt, completion
