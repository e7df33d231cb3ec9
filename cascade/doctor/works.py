"""The work of steps of some numbers of clips, and the GPU's time for a step of any number."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from cascade.doctor.speed import Rates, Spent, spent
from cascade.doctor.work import Part
from cascade.memory import Phase


@dataclass(frozen=True)
class Works:
    """The counted work of a step by phase, by the number of clips in its micro batch.

    Beyond the counted numbers the time is linear in the number of clips.
    """

    counted: dict[int, Mapping[Phase, Part]] = field(default_factory=dict)

    def spent(
        self, phases: Sequence[Phase], clips: int, rates: Rates, *, compiled: bool
    ) -> Spent | None:
        """The time of some phases of a step of `clips` clips; None if nothing was counted."""

        def at(count: int) -> Spent:
            parts = [self.counted[count][phase] for phase in phases if phase in self.counted[count]]
            return spent(parts, rates, compiled=compiled)

        nearest = sorted(self.counted, key=lambda count: abs(count - clips))
        if not nearest:
            return None
        one = nearest[0]
        if one == clips or len(nearest) == 1:
            return at(one)
        other = nearest[1]
        ahead = (clips - one) / (one - other)
        return at(one).plus(at(one), ahead).plus(at(other), -ahead)
