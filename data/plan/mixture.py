"""Several endless streams interleaved with fixed shares: exact in the long run, random access.

Turns are grouped into cycles. The turns of a cycle are strata of [0, 1) in a keyed order; each
stream owns an interval as long as its share; each cycle shifts its strata by a low-discrepancy
offset, so that shares far below one turn per cycle are exact too. The number of turns of each
stream before turn n is a sum, so a resume needs no replay.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64, Int64

from cascade.keyed import key, uniform

_GOLDEN = (5**0.5 - 1) / 2
_CHUNK = 1 << 10


class Mixture:
    """The assignment of turns to streams.

    Raises:
        ValueError: a share is negative, or none is positive.
    """

    def __init__(
        self, shares: Sequence[float], *, seed: int, purpose: str, cycle: int = 128
    ) -> None:
        weights = np.asarray(shares, dtype=np.float64)
        if not len(weights) or weights.min() < 0 or not weights.sum() > 0:
            raise ValueError(
                "mixture: shares must not be negative, and one must be positive, got "
                f"{list(shares)}"
            )
        self.shares: Float64[np.ndarray, " k"] = weights / weights.sum()
        self.seed, self.purpose, self.cycle = seed, purpose, cycle
        self._edges = np.cumsum(self.shares) * cycle
        self._phase = uniform(seed, 0, f"{purpose}/phase")
        self._sums = [np.zeros(len(weights), dtype=np.int64)]  # turns before every _CHUNK-th cycle
        self._drawn: tuple[int, Int64[np.ndarray, " n"]] = (-1, np.zeros(0, dtype=np.int64))

    def before(self, turn: int) -> Int64[np.ndarray, " k"]:
        """The number of turns of each stream among the first `turn` turns."""
        cycle, left = divmod(turn, self.cycle)
        while len(self._sums) * _CHUNK <= cycle:
            first = (len(self._sums) - 1) * _CHUNK
            self._sums.append(self._sums[-1] + self._counts(first, first + _CHUNK))
        known = cycle // _CHUNK
        counts: Int64[np.ndarray, " k"] = self._sums[known] + self._counts(known * _CHUNK, cycle)
        if left:
            counts += np.bincount(self._cycle(cycle)[:left], minlength=len(self.shares))
        return counts

    def _counts(self, first: int, end: int) -> Int64[np.ndarray, " k"]:
        bounds = self._bounds(np.arange(first, end))
        return np.asarray(np.diff(bounds, axis=1, prepend=0).sum(axis=0))

    def turns(self, first: int, count: int) -> Int64[np.ndarray, " n"]:
        """The streams of `count` turns from number `first` on."""
        parts = []
        while count:
            cycle, at = divmod(first, self.cycle)
            part = self._cycle(cycle)[at : at + count]
            parts.append(part)
            first, count = first + len(part), count - len(part)
        return np.concatenate(parts)

    def _bounds(self, cycles: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, "n k"]:
        """The end of each stream's strata, for each cycle and stream."""
        offset = (self._phase + cycles * _GOLDEN) % 1.0
        bounds = np.ceil(self._edges - offset[:, None]).astype(np.int64).clip(0, self.cycle)
        bounds[:, -1] = self.cycle
        return bounds

    def _cycle(self, cycle: int) -> Int64[np.ndarray, " n"]:
        if self._drawn[0] != cycle:
            strata = permutation(self.cycle, self.seed, cycle, self.purpose)
            bounds = self._bounds(np.array([cycle]))[0]
            self._drawn = (cycle, np.searchsorted(bounds, strata, side="right").astype(np.int64))
        return self._drawn[1]


def permutation(count: int, seed: int, position: int, purpose: str) -> Int64[np.ndarray, " n"]:
    """A permutation keyed by (seed, position, purpose)."""
    bits = np.random.Philox(key=key(seed, position, purpose))
    return np.random.Generator(bits).permutation(count)
