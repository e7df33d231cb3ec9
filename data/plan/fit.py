"""The shape of each clip of an index: the buckets of a plan."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from jaxtyping import Bool, Float, Integer

from cascade.grid import Grid
from data.plan.clip_shapes import (
    BINS,
    Kind,
    Shape,
    Side,
    bins,
    choose,
    consolidate,
    kept,
    log_aspect,
    native,
    near,
)

_CHUNK = 1 << 19
Batching = Literal["fixed", "buckets", "packing"]


@dataclass(frozen=True, kw_only=True)
class Fit:
    """The shape of every row: `shape` is its number in `shapes`, or -1 if none fits."""

    shapes: list[Shape]
    shape: Integer[np.ndarray, " n"]
    cropped: Float[np.ndarray, " n"]
    """Share of a row's pixels that are cropped."""


@dataclass(frozen=True, kw_only=True)
class Fitter:
    """Assigns shapes to clips.

    Args:
        grid: the stage's nominal grid, from which a crop is cut.
        multiple: what frames, height and width must be multiples of.
        crop: (frames, height, width) of every clip; None: whole frames.
        batching: `fixed`: the grid's shape only; `buckets`: shapes shared by many clips;
            `packing`: any shape.
        lengths: possible numbers of frames, longest first.
        sizes: sides relative to the grid's, largest first, for clips smaller than the grid.
        max_aspect: largest aspect ratio of a shape; other clips are cropped to it.
        max_buckets: number of shapes per length and size.
        allow_upscale: whether a clip may be enlarged.
    """

    grid: Grid
    multiple: tuple[int, int, int]
    crop: tuple[int, int, int] | None
    batching: str
    lengths: tuple[int, ...]
    sizes: tuple[float, ...] = (1.0,)
    max_aspect: float = 3.0
    max_buckets: int = 16
    allow_upscale: bool = False

    def __post_init__(self) -> None:
        if self.batching not in get_args(Batching):
            raise ValueError(
                f"data.batching must be one of {', '.join(get_args(Batching))}, "
                f"got {self.batching!r}"
            )
        if self.batching == "packing" and self.crop is not None:
            raise ValueError(
                "data.batching=packing needs whole frames, but this stage trains on crops "
                f"{self.crop}: set data.batching=buckets, or stage.train.crop=null"
            )
        sides = zip(("frames", "height", "width"), self.crop or (), self.grid.shape, strict=False)
        for side, size, full in sides:
            if not 1 <= size <= full:
                raise ValueError(
                    f"data.clips.crop: {side} {size} is outside 1 to {full} of {self.grid}"
                )
        if not self.sizes or max(self.sizes) > 1 or min(self.sizes) <= 0:
            raise ValueError(f"data.clips.sizes must be in (0, 1], got {list(self.sizes)}")
        if list(self.sizes) != sorted(self.sizes, reverse=True):
            raise ValueError(
                f"data.clips.sizes must begin with the largest, got {list(self.sizes)}"
            )

    def sides(self, size: float) -> list[Side]:
        """The possible (height, width) pairs at a relative size."""
        if self.crop is not None:
            return [self.crop[1:]]
        full = (self.grid.height, self.grid.width)
        if self.batching == "fixed":
            return [full]
        h, w = (
            max(m, round(side * size / m) * m)
            for side, m in zip(full, self.multiple[1:], strict=True)
        )
        listed = near if self.batching == "packing" else native
        return listed(h, w, self.multiple, self.max_aspect)

    def cover(self, shape: Shape) -> Side:
        """The (height, width) that a clip is scaled to cover before its shape is cut."""
        if self.crop is not None:
            return self.grid.height, self.grid.width
        return shape.height, shape.width

    def __call__(
        self,
        *,
        fit: Bool[np.ndarray, " n"],
        image: Bool[np.ndarray, " n"],
        frames: Integer[np.ndarray, " n"],
        height: Integer[np.ndarray, " n"],
        width: Integer[np.ndarray, " n"],
        batch: "BatchBudget",
    ) -> Fit:
        """Assign a shape to each row where `fit`; `frames` is the maximum for each row.

        Shapes with fewer clips than one `batch` are removed.
        """
        place = bins(log_aspect(height, width))
        shapes: list[Shape] = []
        number = np.full(len(fit), -1, dtype=np.int16)
        waste = 0.02 if self.batching == "packing" else 1.0
        kinds: tuple[Kind, ...] = ("video", "image")
        for kind in kinds:
            mine = fit & (image == (kind == "image"))
            lengths = (1,) if kind == "image" else self.lengths
            level = self._levels(mine, frames, lengths, batch)
            for i, length in enumerate(lengths):
                rows = np.flatnonzero(mine & (level == i)).astype(np.int32)
                for size in self.sizes:
                    if not len(rows):
                        break
                    counts = np.bincount(place[rows], minlength=BINS)
                    sides = self._settle(kind, length, size, counts, batch)
                    table = choose(sides, waste=waste)
                    used = np.unique(table[counts > 0])
                    sides = [sides[i] for i in used]
                    table, left = np.searchsorted(used, table).astype(np.int16), []
                    for some in np.array_split(rows, -(-len(rows) // _CHUNK)):
                        chosen = table[place[some]]
                        ok = self._large_enough(sides, chosen, height[some], width[some])
                        number[some[ok]] = chosen[ok] + len(shapes)
                        left.append(some[~ok])
                    rows = np.concatenate(left)
                    shapes += [Shape(kind=kind, frames=length, height=h, width=w) for h, w in sides]
        return Fit(
            shapes=shapes, shape=number, cropped=self._cropped(shapes, number, height, width)
        )

    def _levels(
        self,
        mine: Bool[np.ndarray, " n"],
        frames: Integer[np.ndarray, " n"],
        lengths: Sequence[int],
        batch: "BatchBudget",
    ) -> Integer[np.ndarray, " n"]:
        """The number of each row's length; one with less than a batch is merged into a shorter."""
        level = np.zeros(len(frames), dtype=np.int8)
        for length in lengths:
            level += frames < length
        counts = np.bincount(level[mine], minlength=len(lengths) + 1)[: len(lengths)]
        _, height, width = self.grid.shape
        enough = [
            count >= batch.size(Shape(kind="video", frames=n, height=height, width=width))
            for count, n in zip(counts, lengths, strict=True)
        ]
        moved = np.arange(len(lengths) + 1, dtype=np.int8)
        for i in range(len(lengths)):
            if not enough[i]:
                moved[i] = next((j for j in range(i + 1, len(lengths)) if enough[j]), i)
        return moved[level]

    def _settle(
        self,
        kind: Kind,
        length: int,
        size: float,
        counts: Integer[np.ndarray, " bins"],
        batch: "BatchBudget",
    ) -> list[Side]:
        sides = self.sides(size)
        if self.batching != "buckets" or len(sides) == 1:
            return sides
        h, w = sides[len(sides) // 2]
        least = batch.size(Shape(kind=kind, frames=length, height=h, width=w))
        return consolidate(sides, counts, least, self.max_buckets)

    def _large_enough(
        self,
        sides: Sequence[Side],
        chosen: Integer[np.ndarray, " m"],
        height: Integer[np.ndarray, " m"],
        width: Integer[np.ndarray, " m"],
    ) -> Bool[np.ndarray, " m"]:
        if self.allow_upscale:
            return np.ones(len(chosen), dtype=bool)
        if self.crop is not None:
            return (height >= self.grid.height) & (width >= self.grid.width)
        heights, widths = np.array(sides).T
        return np.asarray((heights[chosen] <= height) & (widths[chosen] <= width))

    def _cropped(
        self,
        shapes: Sequence[Shape],
        number: Integer[np.ndarray, " n"],
        height: Integer[np.ndarray, " n"],
        width: Integer[np.ndarray, " n"],
    ) -> Float[np.ndarray, " n"]:
        """The share cropped by aspect ratio; 0 for random crops, which differ in every epoch."""
        lost = np.zeros(len(number), dtype=np.float16)
        if shapes and self.crop is None:
            covers = np.array([self.cover(shape) for shape in shapes])
            ratios = log_aspect(covers[:, 0], covers[:, 1])
            for first in range(0, len(number), _CHUNK):
                part = slice(first, first + _CHUNK)
                keeps = kept(ratios[number[part]], log_aspect(height[part], width[part]))
                lost[part] = np.where(number[part] >= 0, 1 - keeps, 0)
        return lost


@dataclass(frozen=True, kw_only=True)
class BatchBudget:
    """The number of clips of a shape that make a batch, within a budget of tokens.

    The budget is the number of tokens of `clips` clips of the grid; batch sizes are multiples of
    `divides`.
    """

    clips: int
    grid: Shape
    multiple: tuple[int, int, int]
    divides: int
    same: bool
    """Whether every batch has `clips` clips, for any shape."""

    def __post_init__(self) -> None:
        if self.divides < 1 or self.clips % self.divides:
            raise ValueError(
                f"data.divides={self.divides} must divide data.global_batch={self.clips}"
            )

    @property
    def budget(self) -> int:
        """Number of tokens of a batch."""
        return self.clips * self.grid.tokens(self.multiple)

    def size(self, shape: Shape) -> int:
        """Number of clips of a shape in a batch."""
        if self.same:
            return self.clips
        return max(1, self.budget // shape.tokens(self.multiple) // self.divides) * self.divides
