"""The order of samples: a pure function of (index, stage, seed, batch number), for any world size.

A batch is the samples of one optimizer step on all ranks. A sample's position is its number in the
run; all of its random choices are keyed by it.
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
    """One sample of a batch: its row of the index, its position, and the shape of its clip."""

    row: int
    position: int
    shape: Shape


class Plan(ABC):
    """The samples of every batch."""

    seed: int
    batch: BatchBudget

    @abstractmethod
    def share(self, number: int, *, part: int, parts: int) -> list[Draw]:
        """The samples of one of `parts` equal parts of batch `number`."""

    @abstractmethod
    def samples(self, number: int) -> int:
        """The number of samples in batch `number`."""

    @abstractmethod
    def alternatives(self, draw: Draw) -> Integer[np.ndarray, " n"]:
        """The rows that may replace the sample of a draw."""

    @abstractmethod
    def check_parts(self, parts: int) -> None:
        """Raise ValueError if `parts` (ranks × accumulation) does not divide every batch."""

    def row(self, draw: Draw, attempt: int) -> int:
        """The row of the `attempt`-th attempt: the draw's own first, then keyed alternatives."""
        if attempt == 0:
            return draw.row
        rows = self.alternatives(draw)
        return _alternative(rows, draw, attempt, seed=self.seed)


def _alternative(rows: Integer[np.ndarray, " n"], draw: Draw, attempt: int, *, seed: int) -> int:
    """One of the rows, keyed by the position of the draw and the attempt."""
    return int(rows[key(seed, draw.position, f"alternative {attempt}") % len(rows)])


@dataclass(frozen=True, kw_only=True)
class RankPart:
    """The part of one rank in a plan, in micro batches: `accumulate` of them make a batch."""

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
        """The loss weight of each sample in a micro batch, so that all samples count equally."""
        parts = self.world * self.accumulate
        return len(self.draws(number)) * parts / self.plan.samples(number // self.accumulate)


@dataclass(frozen=True, kw_only=True)
class Pool:
    """The rows that a plan draws from, with their shapes, in weighted sets.

    `sets` are the first rows of each set (rows are ordered by set); `weights` are shares of the
    samples drawn; by default every sample is drawn equally often. `image_share` is the share of the
    token budget for images; None: an image is drawn as often as a video.
    """

    rows: Integer[np.ndarray, " n"]
    fit: Fit
    sets: Sequence[int] = (0,)
    weights: Sequence[float] | None = None
    image_share: float | None = 0.0

    def __post_init__(self) -> None:
        if self.image_share is not None and not 0 <= self.image_share <= 1:
            raise ValueError(
                f"data.selection.image_share must be in [0, 1], got {self.image_share}"
            )
        if not len(self.rows):
            raise ValueError("data: a plan needs at least one video or image, got none")

    def by_shape(self) -> list[Integer[np.ndarray, " _m"]]:
        """The rows of each shape, in order."""
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
        """Relative number of samples per group and set, (groups, sets), by the sets' weights."""
        counts = np.array([[len(part) for part in self.split(rows)] for rows in groups], float)
        total = counts.sum(axis=0)
        weights = total if self.weights is None else np.asarray(self.weights, dtype=float)
        return np.asarray(counts * np.divide(weights, total, out=0 * total, where=total > 0))

    def shares(self, cost: Sequence[float], rates: np.ndarray) -> np.ndarray:
        """The share of the turns for each shape, of which images get `image_share`.

        `cost` is the part of a turn that one sample of the shape takes.
        """
        turns = rates.sum(axis=1) * np.asarray(cost)
        image = np.array([shape.kind == "image" for shape in self.fit.shapes])
        if self.image_share is not None and turns[image].sum() and turns[~image].sum():
            turns[image] *= self.image_share / turns[image].sum()
            turns[~image] *= (1 - self.image_share) / turns[~image].sum()
        return np.asarray(turns / turns.sum())


class BucketPlan(Plan):
    """Batches of one shape each; shapes are mixed in proportion to their number of clips."""

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
        """Raise ValueError if ranks × accumulation does not divide the batch of every bucket."""
        for shape, size, share in zip(self.shapes, self.sizes, self.turns.shares, strict=True):
            if share > 0 and size % parts:
                raise ValueError(
                    f"data.global_batch: a batch of {shape} has {size} clips, which is not a "
                    f"multiple of {parts} (ranks × accumulated batches); the nearest multiple is "
                    f"{max(1, round(size / parts)) * parts}; set data.divides={parts}, or choose "
                    "ranks and accumulation that divide the batch"
                )

    def samples(self, number: int) -> int:
        """The number of samples in batch `number`."""
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
        """The rows of the draw's bucket."""
        return self.rows[self.shapes.index(draw.shape)]

    def _bucket(self, number: int) -> int:
        return int(self.turns.turns(number, 1)[0])


class Held:
    """Validation samples in a fixed order, in batches of one shape.

    A sample's position is its place in `rows`.
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
        """The row of the `attempt`-th attempt: the draw's own first, then others of its shape."""
        if attempt == 0:
            return draw.row
        rows = self.rows[self.fit.shape[self.rows] == self.fit.shape[draw.row]]
        return _alternative(rows, draw, attempt, seed=self.seed)

    def batches(self, *, rank: int, world: int, size: int) -> list[list[Draw]]:
        """The batches of one rank, of at most `size` samples.

        All ranks get equally many samples of each shape, so some samples come twice if the number
        of ranks does not divide theirs.
        """
        number, batches = self.fit.shape[self.rows], []
        _, first = np.unique(number, return_index=True)
        for shape in number[np.sort(first)]:
            places = np.flatnonzero(number == shape).tolist()
            each = -(-len(places) // world)
            mine = [places[i % len(places)] for i in range(rank, each * world, world)]
            batches += [[self.draw(p) for p in mine[at : at + size]] for at in range(0, each, size)]
        return batches
