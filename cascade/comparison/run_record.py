"""A run's config, metrics and videos, whichever source they were read from."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cascade.curves import Curve

#: One step's videos: caption → a function that fetches the file when it is needed.
Videos = Mapping[str, Callable[[], Path]]


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """One run of a comparison.

    `config` is flat (`stage.net.width`). `figures` are results without steps, such as an
    evaluation's. `error` is the line in which a failed run named its error. `media` are W&B's keys
    of the videos. `done` is the number of steps by the run's folder, 0 if it was not read.
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
        """The number of steps done, as far as known."""
        return max(self.done, steps_logged(self.curves))

    def last(self, name: str) -> float | None:
        """A metric's last value; None if this run has none."""
        if name in self.figures:
            return self.figures[name]
        curve = self.curves.get(name)
        return curve[-1][1] if curve else None


def steps_logged(curves: Mapping[str, Curve]) -> int:
    """The number of steps by the metrics, at least; those of training have the index, from 0."""
    return max(
        (curve[-1][0] + name.startswith("train/") for name, curve in curves.items() if curve),
        default=0,
    )


def flat(config: Mapping[str, Any], *, where: str = "") -> dict[str, Any]:
    """A nested config as `a.b.c` → value; lists are not flattened."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            found |= flat(value, where=f"{where}{key}.")
        else:
            found[f"{where}{key}"] = value
    return found


def numbered(captions: Iterable[str]) -> list[str]:
    """The captions with a number after each repeated one: the second is `… (2)`."""
    counts: dict[str, int] = {}
    names = []
    for caption in captions:
        counts[caption] = counts.get(caption, 0) + 1
        names.append(caption if counts[caption] == 1 else f"{caption} ({counts[caption]})")
    return names


def renamed(records: Iterable[RunRecord]) -> list[RunRecord]:
    """The runs with unique names, without the folders that all their names begin with."""
    records = list(records)
    parts = [record.name.split("/") for record in records]
    shared = 0
    while all(len(part) > shared + 1 for part in parts) and len({p[shared] for p in parts}) == 1:
        shared += 1
    if len(records) == 1:
        shared = len(parts[0]) - 1
    names = numbered("/".join(part[shared:]) for part in parts)
    return [replace(r, name=name) for r, name in zip(records, names, strict=True)]
