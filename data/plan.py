"""The order of samples: a pure function of (rows, seed, position), the same for any world size.

Position is the number of a sample in the run. Batch n of B samples holds positions nB to nB+B-1,
all videos or all images, so that each batch has one shape.
"""

import math

import numpy as np
from jaxtyping import Int64

from cascade.keyed import key, uniform

_KEPT_ORDERS = 4


class Plan:
    """Which row of the index each position takes."""

    def __init__(
        self,
        *,
        videos: Int64[np.ndarray, " n"],
        images: Int64[np.ndarray, " m"],
        seed: int,
        global_batch: int,
        image_share: float,
    ) -> None:
        if not 0 <= image_share <= 1:
            raise ValueError(f"data.image_share must be in [0, 1], got {image_share}")
        if len(videos) == 0 and len(images) == 0:
            raise ValueError("data: a plan needs at least one video or image")
        self.rows = {"video": videos, "image": images}
        self.seed = seed
        self.global_batch = global_batch
        self.image_share = float(len(videos) == 0) if not len(images) * len(videos) else image_share
        self._phase = uniform(seed, 0, "image batches")
        self._orders: dict[tuple[str, int], Int64[np.ndarray, " n"]] = {}

    def all_rows(self) -> Int64[np.ndarray, " n"]:
        """Every row that the plan may take."""
        return np.concatenate([self.rows["video"], self.rows["image"]])

    def image_batches(self, count: int) -> int:
        """How many of the first `count` batches are of images: spread evenly, exact in the long."""
        return math.floor((count + self._phase) * self.image_share) - math.floor(
            self._phase * self.image_share
        )

    def kind(self, batch: int) -> str:
        """What batch number `batch` holds."""
        return "image" if self.image_batches(batch + 1) > self.image_batches(batch) else "video"

    def row(self, position: int, attempt: int = 0) -> int:
        """The row at a position; `attempt` > 0 is an alternative for one that does not decode."""
        batch, place = divmod(position, self.global_batch)
        kind = self.kind(batch)
        rows = self.rows[kind]
        if attempt:
            return int(rows[key(self.seed, position, f"alternative {attempt}") % len(rows)])
        before = self.image_batches(batch)
        drawn = (before if kind == "image" else batch - before) * self.global_batch + place
        epoch, at = divmod(drawn, len(rows))
        return int(rows[self._order(kind, epoch)[at]])

    def _order(self, kind: str, epoch: int) -> Int64[np.ndarray, " n"]:
        """The permutation of one epoch; the last few are kept."""
        if (kind, epoch) not in self._orders:
            while len(self._orders) >= _KEPT_ORDERS:
                self._orders.pop(next(iter(self._orders)))
            bits = np.random.Philox(key=key(self.seed, epoch, f"order of {kind}s"))
            permuted = np.random.Generator(bits).permutation(len(self.rows[kind]))
            self._orders[kind, epoch] = permuted
        return self._orders[kind, epoch]


class Fixed:
    """Rows in their own order: position n is row n."""

    def __init__(self, rows: Int64[np.ndarray, " n"], *, seed: int) -> None:
        self.rows, self.seed = rows, seed

    def row(self, position: int, attempt: int = 0) -> int:
        """The row at a position; `attempt` > 0 is an alternative for one that does not decode."""
        place = key(self.seed, position, f"alternative {attempt}") if attempt else position
        return int(self.rows[place % len(self.rows)])


Rows = Plan | Fixed


def rank_batch(*, global_batch: int, world: int, accumulate: int) -> int:
    """Samples per rank and micro batch.

    Raises:
        ValueError: the global batch does not divide.
    """
    if global_batch % (world * accumulate):
        raise ValueError(
            f"data.global_batch={global_batch} is not a multiple of {world} ranks × {accumulate} "
            f"accumulated batches; the nearest that is: "
            f"{max(1, round(global_batch / (world * accumulate))) * world * accumulate}"
        )
    return global_batch // (world * accumulate)


def rank_positions(micro: int, *, rank: int, world: int, size: int) -> range:
    """Positions of one rank in micro batch number `micro`: its contiguous slice."""
    first = (micro * world + rank) * size
    return range(first, first + size)


def held_positions(count: int, *, rank: int, world: int, size: int) -> list[list[int]]:
    """Positions of one rank's validation batches: equally many per rank, so some twice if need be.

    Ranks take the `count` held-out samples in turn, in batches of `size`: each has early ones.
    """
    each = -(-count // world)
    mine = [position % count for position in range(rank, each * world, world)]
    return [mine[at : at + size] for at in range(0, each, size)]
