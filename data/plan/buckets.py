"""The order of samples: a pure function of (index, stage, seed, batch number), for any world size.

A batch is what one optimizer step sees, over all ranks. A sample's position is its number in the
run; every draw is keyed by it.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Int64, Integer

from cascade.keyed import key
from data.plan.clip_shapes import Shape
from data.plan.fit import BatchBudget, Fit
from data.plan.mixture import Mixture
from data.plan.shuffle import Stream

_CHUNK = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Draw:
    """One sample of a batch: its row of the index, its number in the run, and what it is cut to."""

    row: int
    position: int
    shape: Shape


class Plan(ABC):
    """What every batch holds."""

    seed: int
    batch: BatchBudget

    @abstractmethod
    def share(self, number: int, *, part: int, parts: int) -> list[Draw]:
        """The samples of one of `parts` equal parts of batch `number`."""

    @abstractmethod
    def samples(self, number: int) -> int:
        """How many samples batch `number` has."""

    @abstractmethod
    def alternatives(self, draw: Draw) -> Integer[np.ndarray, " n"]:
        """The rows that may stand in for a draw whose sample fails."""

    @abstractmethod
    def check_parts(self, parts: int) -> None:
        """Refuse a number of parts (ranks × accumulation) that does not divide every batch."""

    def row(self, draw: Draw, attempt: int) -> int:
        """The row for the `attempt`-th try: the draw's own at first, then keyed alternatives."""
        if attempt == 0:
            return draw.row
        rows = self.alternatives(draw)
        return _stand_in(rows, draw, attempt, seed=self.seed)


def _stand_in(rows: Integer[np.ndarray, " n"], draw: Draw, attempt: int, *, seed: int) -> int:
    """One of the rows, keyed by the draw's position and the attempt."""
    return int(rows[key(seed, draw.position, f"alternative {attempt}") % len(rows)])


@dataclass(frozen=True, kw_only=True)
class RankPart:
    """One rank's part of a plan, in micro batches: `accumulate` of them make a batch."""

    plan: Plan
    rank: int = 0
    world: int = 1
    accumulate: int = 1

    def draws(self, number: int) -> list[Draw]:
        """The samples of micro batch `number`."""
        batch, micro = divmod(number, self.accumulate)
        parts = self.world * self.accumulate
        return self.plan.share(batch, part=micro * self.world + self.rank, parts=parts)

    def weight(self, number: int) -> float:
        """What each sample of micro batch `number` counts, so that all samples count alike."""
        parts = self.world * self.accumulate
        return len(self.draws(number)) * parts / self.plan.samples(number // self.accumulate)


@dataclass(frozen=True, kw_only=True)
class Pool:
    """What a plan draws from: rows with their shapes, in sets with weights.

    `sets` are the first rows of each set (rows lie in the order of their sets); `weights` are
    shares of the samples drawn, by default so that every sample is drawn equally often.
    `image_share` is the share of the budget that goes to images; none: they count as samples.
    """

    rows: Integer[np.ndarray, " n"]
    fit: Fit
    sets: Sequence[int] = (0,)
    weights: Sequence[float] | None = None
    image_share: float | None = 0.0

    def __post_init__(self) -> None:
        if self.image_share is not None and not 0 <= self.image_share <= 1:
            raise ValueError(f"data.image_share must be in [0, 1], got {self.image_share}")
        if not len(self.rows):
            raise ValueError("data: a plan needs at least one video or image")

    def by_shape(self) -> list[Integer[np.ndarray, " _m"]]:
        """The rows of every shape, in order."""
        groups: list[list[Integer[np.ndarray, " _m"]]] = [[] for _ in self.fit.shapes]
        for some in np.array_split(self.rows, -(-len(self.rows) // _CHUNK)):
            number = self.fit.shape[some]
            order = np.argsort(number, kind="stable")
            bounds = np.searchsorted(number[order], np.arange(len(groups) + 1))
            for group, (first, end) in zip(groups, pairwise(bounds.tolist()), strict=True):
                group.append(some[order[first:end]])
        return [np.concatenate(group) for group in groups]

    def split(self, rows: Integer[np.ndarray, " n"]) -> list[Integer[np.ndarray, " _m"]]:
        """Rows by set."""
        return np.split(rows, np.searchsorted(rows, self.sets[1:]))

    def rates(self, groups: Sequence[Integer[np.ndarray, " _n"]]) -> np.ndarray:
        """Samples that each group gets of each set, (groups, sets), by the sets' weights."""
        counts = np.array([[len(part) for part in self.split(rows)] for rows in groups], float)
        total = counts.sum(axis=0)
        weights = total if self.weights is None else np.asarray(self.weights, dtype=float)
        return np.asarray(counts * np.divide(weights, total, out=0 * total, where=total > 0))

    def shares(self, cost: Sequence[float], rates: np.ndarray) -> np.ndarray:
        """The share of the turns that each shape gets, so that images take `image_share` of them.

        `cost` is what one sample of the shape takes of a turn.
        """
        turns = rates.sum(axis=1) * np.asarray(cost)
        image = np.array([shape.kind == "image" for shape in self.fit.shapes])
        if self.image_share is not None and turns[image].sum() and turns[~image].sum():
            turns[image] *= self.image_share / turns[image].sum()
            turns[~image] *= (1 - self.image_share) / turns[~image].sum()
        return np.asarray(turns / turns.sum())


class BucketPlan(Plan):
    """Batches of one shape each; their order mixes the shapes by how many clips there are."""

    def __init__(self, pool: Pool, *, batch: BatchBudget, seed: int) -> None:
        self.seed, self.batch, self.shapes = seed, batch, pool.fit.shapes
        self.rows = pool.by_shape()
        self.sizes = np.array([batch.size(shape) for shape in self.shapes])
        rates = pool.rates(self.rows)
        shares = pool.shares((1 / self.sizes).tolist(), rates).tolist()
        self.turns = Mixture(shares, seed=seed, purpose="batches")
        self.streams = [
            Stream(pool.split(rows), weights, seed=seed, purpose=f"order of {shape.kind}s {shape}")
            if len(rows) and share > 0
            else None
            for rows, weights, shape, share in zip(
                self.rows, rates.tolist(), self.shapes, shares, strict=True
            )
        ]

    def check_parts(self, parts: int) -> None:
        """Refuse ranks × accumulation that do not divide every bucket's batch."""
        for shape, size, share in zip(self.shapes, self.sizes, self.turns.shares, strict=True):
            if share > 0 and size % parts:
                raise ValueError(
                    f"data.global_batch: batches of {shape} hold {size} clips, not a multiple of "
                    f"{parts} (ranks × accumulated batches); the nearest that is: "
                    f"{max(1, round(size / parts)) * parts}; set data.divides={parts}, or choose "
                    "ranks and accumulation that divide it"
                )

    def samples(self, number: int) -> int:
        """How many samples batch `number` has."""
        return int(self.sizes[self._bucket(number)])

    def bucket(self, number: int) -> Shape:
        """The shape of batch `number`."""
        return self.shapes[self._bucket(number)]

    def share(self, number: int, *, part: int, parts: int) -> list[Draw]:
        """One of the equal parts of a batch."""
        bucket, before = self._bucket(number), self.turns.before(number)
        size = int(self.sizes[bucket])
        if size % parts:
            self.check_parts(parts)
        stream = self.streams[bucket]
        assert stream is not None
        each = size // parts
        at = int(before[bucket]) * size + part * each
        position = int(before @ self.sizes) + part * each
        return [
            Draw(row=row, position=position + i, shape=self.shapes[bucket])
            for i, row in enumerate(stream.take(at, each).tolist())
        ]

    def alternatives(self, draw: Draw) -> Integer[np.ndarray, " n"]:
        """The rows of its bucket."""
        return self.rows[self.shapes.index(draw.shape)]

    def _bucket(self, number: int) -> int:
        return int(self.turns.turns(number, 1)[0])


class Held:
    """Samples in their own order, in batches of one shape, for validation.

    A sample's position is its place in `rows`, so that few large positions mean few samples.
    """

    def __init__(self, rows: Int64[np.ndarray, " n"], fit: Fit, *, seed: int) -> None:
        self.rows, self.fit, self.seed = rows, fit, seed

    def __len__(self) -> int:
        return len(self.rows)

    def draw(self, position: int) -> Draw:
        """The sample at a position."""
        row = int(self.rows[position])
        return Draw(row=row, position=position, shape=self.fit.shapes[self.fit.shape[row]])

    def row(self, draw: Draw, attempt: int) -> int:
        """The row for the `attempt`-th try: others of its shape stand in for one that fails."""
        if attempt == 0:
            return draw.row
        rows = self.rows[self.fit.shape[self.rows] == self.fit.shape[draw.row]]
        return _stand_in(rows, draw, attempt, seed=self.seed)

    def batches(self, *, rank: int, world: int, size: int) -> list[list[Draw]]:
        """The batches of one rank: equally many per rank and shape, so some twice if need be.

        Ranks take the samples of a shape in turn, in batches of at most `size`.
        """
        number, batches = self.fit.shape[self.rows], []
        _, first = np.unique(number, return_index=True)
        for shape in number[np.sort(first)]:
            places = np.flatnonzero(number == shape).tolist()
            each = -(-len(places) // world)
            mine = [places[i % len(places)] for i in range(rank, each * world, world)]
            batches += [[self.draw(p) for p in mine[at : at + size]] for at in range(0, each, size)]
        return batches
