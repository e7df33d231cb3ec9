"""Packed batches: clips of any shape concatenated in sequences of one length (NaViT, §3).

Attention is restricted to each clip. The endless stream of samples is divided into windows; the
clips of a window are packed into sequences in order, except that the last two clips of a sequence
are chosen to fill it best. The number of batches of a window follows from its expected number of
tokens and the fill of the first window, so the window of a batch is found without packing.
"""

import bisect
import logging
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int64, Integer

from data.plan.buckets import Draw, Plan, Pool
from data.plan.fit import BatchBudget
from data.plan.mixture import permutation
from data.plan.shuffle import Stream

log = logging.getLogger(__name__)

WINDOW = 262_144
_CLOSE = 0.003
_BATCHES = 16
"""Minimum number of batches in a window."""
_SURE = 3.0
"""Standard deviations by which a window may exceed its expected number of tokens."""


class PackedPlan(Plan):
    """Batches of `batch.divides` sequences, each with an equal part of the budget.

    Raises:
        ValueError: a clip is longer than a sequence.
    """

    def __init__(self, pool: Pool, *, batch: BatchBudget, seed: int, window: int = WINDOW) -> None:
        self.seed, self.batch, self.shapes = seed, batch, pool.fit.shapes
        self.slots = batch.divides
        self.length = batch.budget // batch.divides
        groups = pool.by_shape()
        self._groups, self._number = groups, pool.fit.shape
        cost = np.array([shape.tokens(batch.multiple) for shape in self.shapes])
        longest = int(cost[[i for i, rows in enumerate(groups) if len(rows)]].max())
        if longest > self.length:
            raise ValueError(
                f"data: the longest clip has {longest} tokens, but a packed sequence has only "
                f"{self.length} ({batch.budget} tokens for {batch.clips} clips / {batch.divides} "
                "sequences): lower data.divides or raise data.global_batch"
            )
        self.sizes, self._size_of = np.unique(cost, return_inverse=True)
        parts, weights = self._parts(pool, cost)
        self.stream = Stream(parts, weights, seed=seed, purpose="order of a packed run")
        # With one set a window is a whole number of epochs: all windows have the same tokens.
        alone = len(parts) == 1
        counts = np.array([np.bincount(self._number[rows], minlength=len(cost)) for rows in parts])
        share = counts / counts.sum(axis=1, keepdims=True)
        self._mean = share @ cost
        mean = float(np.average(self._mean, weights=weights))
        least = math.ceil(_BATCHES * batch.budget / mean)
        self.window = max(least, window)
        if alone and len(parts[0]) <= self.window:
            self.window = -(-max(least, len(parts[0])) // len(parts[0])) * len(parts[0])
        whole = alone and self.window % len(parts[0]) == 0
        self._variance = 0 * self._mean if whole else share @ cost**2 - self._mean**2
        self._batches = [0]  # batches before each window known so far
        self._laid: tuple[int, Integer[np.ndarray, " n"], list[Int64[np.ndarray, " _n"]]]
        self._laid = (-1, np.zeros(0, dtype=np.int64), [])
        first = self._classes(self.stream.members(0, self.window))
        made = -(-len(pack(first.tolist(), self.sizes.tolist(), self.length)) // self.slots)
        self.fill = float(self.sizes[first].sum()) / (made * batch.budget)

    @property
    def used(self) -> float:
        """The expected share of the token budget that is used."""
        self._window_of(0)
        tokens = self.stream.counts(0, self.window) @ self._mean
        return float(tokens / (self._batches[1] * self.batch.budget))

    def _parts(
        self, pool: Pool, cost: Int64[np.ndarray, " k"]
    ) -> tuple[list[Integer[np.ndarray, " _n"]], list[float]]:
        """The rows by kind and set, and the share of the samples for each."""
        rates = pool.rates(self._groups)
        drawn = rates.sum(axis=1, keepdims=True)
        tokens = pool.shares(cost.tolist(), rates)[:, None]
        samples = rates / np.where(drawn > 0, drawn, 1) * tokens / cost[:, None]
        image = np.array([shape.kind == "image" for shape in self.shapes])
        found: list[tuple[Integer[np.ndarray, " _n"], float]] = []
        for kind in (False, True):
            rows = pool.rows[image[self._number[pool.rows]] == kind]
            found += zip(pool.split(rows), samples[image == kind].sum(axis=0).tolist(), strict=True)
        found = [(rows, weight) for rows, weight in found if len(rows) and weight > 0]
        return [rows for rows, _ in found], [weight for _, weight in found]

    def check_parts(self, parts: int) -> None:
        """Refuse ranks × accumulation that do not divide the sequences of a batch."""
        if self.slots % parts:
            raise ValueError(
                f"data.divides={self.slots} sequences per batch is not a multiple of {parts} "
                f"(ranks × accumulated batches); set data.divides to a multiple"
            )

    def samples(self, number: int) -> int:
        """The number of samples in batch `number`."""
        return sum(len(places) for places in self._sequences(number))

    def share(self, number: int, *, part: int, parts: int) -> list[Draw]:
        """One of the equal parts of a batch: whole sequences."""
        self.check_parts(parts)
        each = self.slots // parts
        places = np.concatenate(self._sequences(number)[part * each : (part + 1) * each])
        first, rows = self._laid[0] * self.window, self._laid[1][places]
        return [
            Draw(row=row, position=first + place, shape=self.shapes[self._number[row]])
            for row, place in zip(rows.tolist(), places.tolist(), strict=True)
        ]

    def alternatives(self, draw: Draw) -> Integer[np.ndarray, " n"]:
        """The rows of the draw's shape."""
        return self._groups[self.shapes.index(draw.shape)]

    def _window_of(self, number: int) -> int:
        while self._batches[-1] <= number:
            first = (len(self._batches) - 1) * self.window
            counts = self.stream.counts(first, self.window)
            tokens = counts @ self._mean + _SURE * (counts @ self._variance) ** 0.5
            made = math.ceil(tokens / (self.fill * self.batch.budget) - 1e-9)
            self._batches.append(self._batches[-1] + made)
        return int(np.searchsorted(self._batches, number, side="right")) - 1

    def _classes(self, rows: Integer[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
        """The size class of each row."""
        return np.asarray(self._size_of[self._number[rows]])

    def _sequences(self, number: int) -> list[Int64[np.ndarray, " _n"]]:
        """The sequences of a batch, as places in its window."""
        window = self._window_of(number)
        if self._laid[0] != window:
            rows = self.stream.take(window * self.window, self.window)
            self._laid = (window, rows, self._lay(window, self._classes(rows)))
        at = (number - self._batches[window]) * self.slots
        return self._laid[2][at : at + self.slots]

    def _lay(self, window: int, classes: Int64[np.ndarray, " n"]) -> list[Int64[np.ndarray, " _n"]]:
        count = (self._batches[window + 1] - self._batches[window]) * self.slots
        order = np.argsort(classes, kind="stable")
        ends = np.cumsum(np.bincount(classes, minlength=len(self.sizes))).tolist()
        packed = pack(classes.tolist(), self.sizes.tolist(), self.length)[:count]
        sequences = []
        for sizes in packed:
            places = []
            for size in sizes:  # clips of one size are interchangeable: take the next one
                ends[size] -= 1
                places.append(order[ends[size]])
            sequences.append(np.array(places, dtype=np.int64))
        if left := len(order) - sum(map(len, sequences)):
            log.info("data: %d of %d clips of a window were not packed", left, len(order))
        self._share_out(sequences, count)
        turned = permutation(count, self.seed, window, "packed sequences")
        return [sequences[i] for i in turned]

    @staticmethod
    def _share_out(sequences: list[Int64[np.ndarray, " _n"]], count: int) -> None:
        """Add sequences until there are `count`: each takes a clip from one that has the most."""
        donors = sorted(range(len(sequences)), key=lambda i: -len(sequences[i]))
        for turn in range(count - len(sequences)):
            donor = donors[turn % len(donors)]
            sequences.append(sequences[donor][-1:])
            if len(sequences[donor]) > 1:
                sequences[donor] = sequences[donor][:-1]


def pack(clips: Sequence[int], sizes: Sequence[int], room: int) -> list[list[int]]:
    """Pack clips into sequences of at most `room` tokens; a clip is the number of its size.

    Clips are taken in order while two more of any size fit; the last one or two of a sequence are
    those of all remaining clips that fill it best. `sizes` are in tokens, ascending.
    """
    left = [0] * len(sizes)
    for clip in clips:
        left[clip] += 1
    ahead = [0] * len(sizes)  # taken before their turn
    sequences, turn = [], 0
    while any(left):
        sequence, free = [], room
        while turn < len(clips) and free > 2 * sizes[-1]:
            clip = clips[turn]
            turn += 1
            if ahead[clip]:
                ahead[clip] -= 1
                continue
            sequence.append(clip)
            left[clip] -= 1
            free -= sizes[clip]
        while last := best_pair(free, sizes, left):
            for clip in last:
                sequence.append(clip)
                left[clip] -= 1
                ahead[clip] += 1
                free -= sizes[clip]
        sequences.append(sequence)
    return sequences


def best_pair(room: int, sizes: Sequence[int], left: Sequence[int]) -> list[int]:
    """The one or two remaining sizes with the largest sum of at most `room`.

    Among pairs that leave less than a share `_CLOSE` of the room, the one with the most remaining
    clips, so that no size runs out.
    """
    low, high = 0, bisect.bisect_right(sizes, room) - 1
    while high >= 0 and not left[high]:
        high -= 1
    if high < 0:
        return []
    enough = room * (1 - _CLOSE)
    best, found = (min(sizes[high], enough), 0), [high]
    while low <= high:
        both = sizes[low] + sizes[high]
        if not left[high] or both > room:
            high -= 1
        elif not left[low] or (low == high and left[low] < 2):
            low += 1
        else:
            score = (min(both, enough), min(left[low], left[high]))
            if score > best:
                best, found = score, [low, high]
            low += 1
    return found
