"""What captions may cost, and what they have cost."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from data.recaption.ledger import Usage


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What may be spent; `prices` are per million tokens."""

    prices: Mapping[str, float]
    max_cost: float | None = None
    limit: int | None = None
    estimate_from: int = 4


@dataclass(kw_only=True)
class CaptionTally:
    """What happened: in this call, and, for `used` and `answered`, in those before it too."""

    captioned: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    again: Counter[str] = field(default_factory=Counter)
    used: dict[str, Usage] = field(default_factory=dict)
    answered: Counter[str] = field(default_factory=Counter)
    left: Counter[str] = field(default_factory=Counter)

    def cost(self, prices: Mapping[str, float]) -> float:
        """Of all answers."""
        return sum(used.cost(prices) for used in self.used.values())

    def mean_cost(self, recipe: str, prices: Mapping[str, float]) -> float:
        """Of one clip's captions, answers that were bad included."""
        return self.used[recipe].cost(prices) / max(1, self.answered[recipe])

    def estimate(self, prices: Mapping[str, float]) -> tuple[float, float, float]:
        """(cost, prompt tokens, completion tokens) of what is left."""
        cost, prompt, completion = 0.0, 0.0, 0.0
        for recipe, left in self.left.items():
            share = left / max(1, self.answered[recipe])
            cost += left * self.mean_cost(recipe, prices)
            prompt += share * self.used[recipe].prompt
            completion += share * self.used[recipe].completion
        return cost, prompt, completion
