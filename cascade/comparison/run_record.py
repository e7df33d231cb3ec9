"""What is known of one run, wherever it was read: its config, its curves and its videos."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cascade.curves import Curve

#: One step's videos: what each was made for → where its file lies, fetched when it is wanted.
Videos = Mapping[str, Callable[[], Path]]


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """One run as it is compared.

    `config` is flat (`stage.net.width`). `figures` are results that have no steps, such as those of
    an evaluation. `error` is the last line of what a failed run said. `media` are the names under
    which W&B has the videos. `done` are the steps that its checkpoints tell of.
    """

    name: str
    source: str
    state: str
    config: Mapping[str, Any] = field(default_factory=dict)
    curves: Mapping[str, Curve] = field(default_factory=dict)
    figures: Mapping[str, float] = field(default_factory=dict)
    videos: Mapping[int, Videos] = field(default_factory=dict)
    error: str | None = None
    media: tuple[str, ...] = ()
    done: int = 0

    @property
    def step(self) -> int:
        """How many steps were made, as far as this is known."""
        return max(self.done, steps_told(self.curves))

    def last(self, name: str) -> float | None:
        """A figure's last value; none where this run has none."""
        if name in self.figures:
            return self.figures[name]
        curve = self.curves.get(name)
        return curve[-1][1] if curve else None


def steps_told(curves: Mapping[str, Curve]) -> int:
    """How many steps the figures tell of; the loss has the step's index, which begins at 0."""
    steps = [curve[-1][0] + (name == "train/loss") for name, curve in curves.items() if curve]
    return max(steps, default=0)


def flat(config: Mapping[str, Any], *, where: str = "") -> dict[str, Any]:
    """A nested config as `a.b.c` → value; lists stay whole."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            found |= flat(value, where=f"{where}{key}.")
        else:
            found[f"{where}{key}"] = value
    return found


def numbered(captions: Iterable[str]) -> list[str]:
    """The captions, told apart where the same one comes again: the second is `… (2)`."""
    counts: dict[str, int] = {}
    names = []
    for caption in captions:
        counts[caption] = counts.get(caption, 0) + 1
        names.append(caption if counts[caption] == 1 else f"{caption} ({counts[caption]})")
    return names


def renamed(records: Iterable[RunRecord]) -> list[RunRecord]:
    """The same runs without the folders that all of their names begin with, no two alike."""
    records = list(records)
    parts = [record.name.split("/") for record in records]
    shared = 0
    while all(len(part) > shared + 1 for part in parts) and len({p[shared] for p in parts}) == 1:
        shared += 1
    if len(records) == 1:
        shared = len(parts[0]) - 1
    names = numbered("/".join(part[shared:]) for part in parts)
    return [replace(r, name=name) for r, name in zip(records, names, strict=True)]
