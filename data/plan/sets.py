"""Named, weighted sets of shards, and the samples of them that a stage can use."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64, Integer

from data.index.columns import Index
from data.plan.fit import BatchBudget, Fit, Fitter
from data.plan.select import Need, nothing_left, select, split
from data.shards.store import find_shards

Spec = str | Path | Sequence[str | Path]
Shards = Spec | Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Set:
    """Shards and their share of the samples drawn; None: in proportion to their size."""

    shards: Spec
    weight: float | None = None

    def found(self) -> list[str]:
        """The shards of the set."""
        return find_shards(self.shards)


def named(shards: Shards) -> dict[str, Set]:
    """Sets by name; shards without a name are one set.

    Raises:
        ValueError: a set has unknown keys, or only some sets have a weight.
    """
    if not isinstance(shards, Mapping):
        return {"all": Set(shards=shards)}
    sets = {}
    for name, one in shards.items():
        if not isinstance(one, Mapping) or not {"shards"} <= {*one} <= {"shards", "weight"}:
            raise ValueError(
                f"data.shards.{name}: a set must have `shards` and may have a `weight`, got {one!r}"
            )
        sets[str(name)] = Set(**{str(key): value for key, value in one.items()})
    weights = [one.weight for one in sets.values()]
    if len({weight is None for weight in weights}) > 1:
        raise ValueError(f"data.shards: all sets or none must have a weight, got {weights}")
    numbers = [weight for weight in weights if weight is not None]
    if not sets or not all(isinstance(w, int | float) and 0 < w < math.inf for w in numbers):
        raise ValueError(
            f"data.shards: there must be a set, and weights must be positive, got {shards!r}"
        )
    return sets


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """The usable samples of some sets, with their shapes; the others counted by reason."""

    index: Index
    sets: Sequence[int]
    """The first row of each set."""
    weights: Sequence[float] | None
    fit: Fit
    rows: Integer[np.ndarray, " n"]
    dropped: dict[str, int]
    unasked: int

    def __str__(self) -> str:
        images = int(self.index.image[self.rows].sum())
        dropped = ", ".join(f"{count} {reason}" for reason, count in self.dropped.items())
        return (
            f"{len(self.rows) - images} videos and {images} images of {len(self.index)} samples "
            f"are usable; dropped: {dropped or 'none'}; images not requested: {self.unasked}"
        )

    def check_dropped(self, most: float) -> None:
        """Raise ValueError if more than the share `most` of the samples is dropped."""
        count, of = sum(self.dropped.values()), len(self.index) - self.unasked
        if count > most * of:
            reasons = "; ".join(f"{n} {reason}" for reason, n in self.dropped.items())
            raise ValueError(
                f"data: {count} of {of} samples ({count / of:.0%}) are dropped, more than "
                f"data.selection.max_dropped={most:g} allows: {reasons}. Repair the data, relax "
                "data.selection or data.clips, or raise data.selection.max_dropped"
            )


def choose(
    sets: Mapping[str, Set],
    *,
    ensure: Callable[[Sequence[str]], Sequence[Path]],
    need: Need,
    fitter: Fitter,
    batch: BatchBudget,
) -> Chosen:
    """Select the usable samples of the sets; `ensure` returns the index of every shard.

    Raises:
        ValueError: no sample is usable, or a shard is in two sets.
    """
    found = [one.found() for one in sets.values()]
    shards = [shard for some in found for shard in some]
    if len(set(shards)) < len(shards):
        twice = next(shard for shard in shards if shards.count(shard) > 1)
        raise ValueError(f"data.shards: {twice} is in two of the sets {', '.join(sets)}")
    index = Index.load(shards, ensure(shards))
    firsts = [
        int(index.starts[first]) for first in np.cumsum([0, *(len(some) for some in found)])[:-1]
    ]
    selected = select(index, need, sets=firsts)
    index.forget("sample")
    fit = fitter(
        fit=selected.fit,
        image=index.image,
        frames=selected.frames,
        height=index.column("height"),
        width=index.column("width"),
        batch=batch,
    )
    small = int((selected.fit & (fit.shape < 0)).sum())
    reason = f"too small for {fitter.grid} without upscaling"
    dropped = selected.dropped | ({reason: small} if small else {})
    rows = np.flatnonzero(fit.shape >= 0).astype(np.int32)
    if not len(rows):
        raise ValueError(nothing_left(index, need, dropped, selected.unasked))
    weights = [one.weight for one in sets.values()]
    counts = np.diff(np.searchsorted(rows, [*firsts, len(index)]))
    for name, one, count in zip(sets, sets.values(), counts.tolist(), strict=True):
        if one.weight is not None and not count:
            raise ValueError(
                f"data.shards.{name}: has weight {one.weight:g}, but none of its samples has "
                f"{need}: {dropped}; remove the set, or repair it"
            )
    return Chosen(
        index=index,
        sets=firsts,
        weights=None if None in weights else [float(w) for w in weights if w is not None],
        fit=fit,
        rows=rows,
        dropped=dropped,
        unasked=selected.unasked,
    )


def hold_out(
    chosen: Chosen, share: float
) -> tuple[Integer[np.ndarray, " t"], Int64[np.ndarray, " v"]]:
    """(training rows, held-out rows in the order of their hashes), of videos and images separately.

    At share 1 all rows are held out. Longer clips come before shorter ones and before images.
    """
    index, rows = chosen.index, chosen.rows
    if share == 1:
        kept, held = rows[:0], rows[np.argsort(index.column("content")[rows], kind="stable")]
    else:
        image = index.image[rows]
        kept_videos, held = split(index, rows[~image], share)
        kept_images, held_images = split(index, rows[image], share)
        kept = np.sort(np.concatenate([kept_videos, kept_images]))
        held = np.concatenate([held, held_images])
    frames = np.array([s.frames for s in chosen.fit.shapes])[chosen.fit.shape[held]]
    return kept, held[np.argsort(-frames, kind="stable")].astype(np.int64)
