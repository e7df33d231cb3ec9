"""Endless shuffled sequences of rows with random access, and with locality for large sets.

Rows are ordered by shard. An epoch takes blocks of neighbouring rows in a keyed order and permutes
the rows within a window of blocks. A set of one window is shuffled globally; for a larger set few
shards are read at a time. Only the windows in use are in memory.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int64, Integer

from data.plan.mixture import Mixture, permutation

BLOCK, WINDOW = 1024, 65_536
_KEPT = 2


class Shuffled:
    """Every row once per epoch, in a new order each epoch."""

    def __init__(
        self,
        rows: Integer[np.ndarray, " n"],
        *,
        seed: int,
        purpose: str,
        block: int = BLOCK,
        window: int = WINDOW,
    ) -> None:
        if not len(rows):
            raise ValueError(f"data: there are no rows to shuffle ({purpose})")
        self.rows, self.seed, self.purpose = rows, seed, purpose
        self.block = max(len(rows), 1) if len(rows) <= window else block
        self.blocks = max(1, window // block)
        self._windows: dict[tuple[int, int], Integer[np.ndarray, " n"]] = {}
        self._starts: tuple[int, Integer[np.ndarray, " m"]] = (-1, np.zeros(0, dtype=np.int64))

    def take(self, first: int, count: int) -> Integer[np.ndarray, " count"]:
        """`count` rows from number `first` of the sequence on."""
        parts = []
        while count:
            epoch, at = divmod(first, len(self.rows))
            window, begin = self._window_of(epoch, at)
            part = self._window(epoch, window)[at - begin : at - begin + count]
            parts.append(part)
            first, count = first + len(part), count - len(part)
        return np.concatenate(parts) if len(parts) != 1 else parts[0]

    def _order(self, epoch: int) -> Integer[np.ndarray, " blocks"]:
        blocks = -(-len(self.rows) // self.block)
        return permutation(blocks, self.seed, epoch, f"{self.purpose}/blocks")

    def _window_of(self, epoch: int, at: int) -> tuple[int, int]:
        """The window of place `at` in an epoch, and its first place."""
        if self._starts[0] != epoch:
            order = self._order(epoch)
            sizes = np.full(len(order), self.block)
            sizes[order == len(order) - 1] -= len(order) * self.block - len(self.rows)
            starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])[:: self.blocks]
            self._starts = (epoch, starts)
        starts = self._starts[1]
        window = int(np.searchsorted(starts, at, side="right")) - 1
        return window, int(starts[window])

    def _window(self, epoch: int, window: int) -> Integer[np.ndarray, " n"]:
        if (epoch, window) not in self._windows:
            while len(self._windows) >= _KEPT:
                self._windows.pop(next(iter(self._windows)))
            blocks = self._order(epoch)[window * self.blocks : (window + 1) * self.blocks]
            held = np.concatenate(
                [self.rows[b * self.block : (b + 1) * self.block] for b in blocks]
            )
            order = permutation(len(held), self.seed, epoch, f"{self.purpose}/window {window}")
            self._windows[epoch, window] = held[order]
        return self._windows[epoch, window]


class Stream:
    """Several sets of rows as one endless sequence, mixed by weight, each shuffled by itself."""

    def __init__(
        self,
        parts: Sequence[Integer[np.ndarray, " _n"]],
        weights: Sequence[float],
        *,
        seed: int,
        purpose: str,
    ) -> None:
        self.parts = [
            Shuffled(rows, seed=seed, purpose=f"{purpose}/{i}") if len(rows) else None
            for i, rows in enumerate(parts)
        ]
        weights = [w if len(rows) else 0.0 for rows, w in zip(parts, weights, strict=True)]
        some = [part for part, weight in zip(self.parts, weights, strict=True) if weight]
        self._alone = some[0] if len(some) == 1 else None
        self.mixture = Mixture(weights, seed=seed, purpose=f"{purpose}/sets")

    def take(self, first: int, count: int) -> Integer[np.ndarray, " count"]:
        """`count` rows from number `first` of the sequence on."""
        if self._alone is not None:
            return self._alone.take(first, count)
        turns, rows = self.mixture.turns(first, count), np.empty(count, dtype=np.int64)
        for number, part in self._parts(first, count).items():
            rows[turns == number] = part
        return rows

    def members(self, first: int, count: int) -> Integer[np.ndarray, " count"]:
        """The rows of `take` in another order, computed faster."""
        if self._alone is not None:
            return self._alone.take(first, count)
        return np.concatenate(list(self._parts(first, count).values()))

    def counts(self, first: int, count: int) -> Int64[np.ndarray, " k"]:
        """The number of rows of each set among `count` rows from number `first` on."""
        if self._alone is not None:
            return np.array([count])
        return np.asarray(self.mixture.before(first + count) - self.mixture.before(first))

    def _parts(self, first: int, count: int) -> dict[int, Integer[np.ndarray, " _n"]]:
        before, after = self.mixture.before(first), self.mixture.before(first + count)
        return {
            number: part.take(int(before[number]), int(after[number] - before[number]))
            for number, part in enumerate(self.parts)
            if part is not None and after[number] > before[number]
        }
