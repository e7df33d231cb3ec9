"""Whether a step fits a device's memory, and the largest micro batch that fits."""

from collections.abc import Callable
from dataclasses import dataclass

from cascade.memory import StepMemory

#: Parts of a step's memory that sharding divides among the ranks.
SHARDED = ("weights", "gradients", "optimizer", "averages")


@dataclass(frozen=True, kw_only=True)
class Room:
    """A device's memory in bytes, `reserved` bytes, and the allocator's `slack` per tensor byte."""

    memory: float
    reserved: float
    slack: float

    def needed(self, tensors: int) -> float:
        """Bytes of device memory that `tensors` bytes of tensors need."""
        return tensors * (1 + self.slack) + self.reserved

    def fits(self, step: StepMemory) -> bool:
        """Whether a step fits the device's memory."""
        return self.needed(step.peak) <= self.memory


@dataclass(frozen=True, kw_only=True)
class MicroBatch:
    """The planned micro batch, the largest that fits, and a suggestion with the same global batch.

    `largest` is 0 if not even one clip fits. `suggested` is (micro batch, accumulated batches) if
    the plan does not fit and this does.
    """

    micro: int
    step: StepMemory
    fits: bool
    largest: int
    suggested: tuple[int, int] | None

    def runs(self, accumulate: int) -> tuple[int, int]:
        """The (micro batch, accumulated batches) that can run: as planned, or as suggested."""
        return (self.micro, accumulate) if self.fits or not self.suggested else self.suggested


def sharded(step: StepMemory, ranks: int, gathered: int) -> StepMemory:
    """A rank's step with weights, gradients, optimizer and EMA weights divided among ranks.

    `gathered` bytes of weights and gradients are unsharded at one time.
    """
    parts = {
        name: -(-size // ranks) if name in SHARDED else size for name, size in step.parts.items()
    }
    return StepMemory(parts=parts | {"gathered": gathered}, peak_at=step.peak_at, saved=step.saved)


def fit(
    step: Callable[[int, bool], StepMemory],
    room: Room,
    *,
    share: int,
    accumulate: int,
) -> MicroBatch:
    """Compare a rank's steps with a device's memory.

    Args:
        step: `step(n, accumulating)` counts the memory of a step of n clips.
        room: the device's memory.
        share: clips per rank in a global batch.
        accumulate: micro batches per step.
    """
    micro = max(1, share // accumulate)

    def at(count: int) -> StepMemory:
        return step(count, count < share)

    fits = room.fits(at(micro))
    largest = _largest(at, room, share)
    suggested = None
    if not fits and largest:
        ways = (n for n in range(1, share + 1) if share % n == 0 and share // n <= largest)
        accumulated = next(ways)
        suggested = share // accumulated, accumulated
    return MicroBatch(
        micro=micro,
        step=at(micro),
        fits=fits,
        largest=largest,
        suggested=suggested,
    )


def _largest(at: Callable[[int], StepMemory], room: Room, most: int) -> int:
    """The most clips that fit, up to `most`: interpolation search between two counts."""
    if room.fits(at(most)):
        return most
    if most == 1 or not room.fits(at(1)):
        return 0
    low, high = 1, most  # `low` clips fit, `high` do not
    while high - low > 1:
        a, b = room.needed(at(low).peak), room.needed(at(high).peak)
        crossing = low + int((room.memory - a) / (b - a) * (high - low)) if b > a else 0
        guess = min(max(crossing, low + 1), high - 1)
        if room.fits(at(guess)):
            low = guess
        else:
            high = guess
    return low


class Extrapolated:
    """Counts steps of up to `most` clips, and extrapolates linearly beyond.

    A step's memory is linear in the number of clips, but for a few parts. Counting many clips is
    slow, because every clip has random draws of its own.
    """

    def __init__(self, count: Callable[[int, bool], StepMemory], most: int = 32) -> None:
        self.count, self.most = count, most
        self._known: dict[tuple[int, bool], StepMemory] = {}

    def __call__(self, clips: int, accumulating: bool) -> StepMemory:
        """The memory of a step of `clips` clips."""
        if clips <= self.most:
            if (clips, accumulating) not in self._known:
                self._known[clips, accumulating] = self.count(clips, accumulating)
            return self._known[clips, accumulating]
        low, high = self(self.most // 2, accumulating), self(self.most, accumulating)
        ahead = (clips - self.most) / (self.most - self.most // 2)

        def line(a: int, b: int) -> int:
            return round(b + (b - a) * ahead)

        return StepMemory(
            parts={
                name: max(0, line(low.parts.get(name, 0), high.parts.get(name, 0)))
                for name in {**high.parts, **low.parts}
            },
            peak_at=high.peak_at,
            saved=line(low.saved, high.saved),
        )
