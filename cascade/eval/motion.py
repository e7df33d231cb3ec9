"""How far objects in a generated video move from the truth: velocity, momentum and energy.

Where the objects are is read by a parser and known from the world, so this module works for any.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from cascade.eval.measure import Figure, Generated, Scores
from cascade.grid import Grid

Places = Float[np.ndarray, "objects f 2"]
"""Centres, in units; NaN where an object is not seen."""


@dataclass(frozen=True, kw_only=True)
class Motion:
    """The errors of one video, over the counted pairs of neighbouring frames.

    `velocity` is the mean |v − v̂| along `axis`, in units per second (PhyWorld's measure), NaN if
    nothing was read. `momentum` and `energy` are the mean errors of Σ m v and of Σ m v² / 2,
    relative to the truth's scale. `lost` is the share of the counted pairs with an object unseen,
    NaN if no pair is counted.
    """

    velocity: float
    momentum: float
    energy: float
    lost: float


def motion(
    read: Places,
    true: Places,
    counted: Bool[np.ndarray, "objects f"],
    *,
    fps: float,
    masses: Sequence[float],
    axis: int | None = 0,
) -> Motion:
    """Compare read centres with the `true` ones, where a frame and the one before are `counted`.

    `axis` is that of the velocity: 0 along x, 1 along y, None for the length of the difference.

    Raises:
        ValueError: the shapes differ, or there are fewer than two frames.
    """
    if read.shape != true.shape or counted.shape != true.shape[:2] or true.shape[1] < 2:
        raise ValueError(
            f"motion: needs centres of the same objects in at least 2 frames, got {read.shape} "
            f"read, {true.shape} true and {counted.shape} counted"
        )
    pairs = counted[:, 1:] & counted[:, :-1]
    found, wanted = np.diff(read, axis=1) * fps, np.diff(true, axis=1) * fps
    seen = pairs & ~np.isnan(found).any(-1)
    error = found - wanted
    apart = np.linalg.norm(error, axis=-1) if axis is None else np.abs(error[..., axis])
    whole = seen.all(0)
    weight = np.array(masses, dtype=np.float64)[:, None]
    return Motion(
        velocity=float(apart[seen].mean()) if seen.any() else float("nan"),
        momentum=_relative(weight[..., None] * found, weight[..., None] * wanted, whole),
        energy=_relative(weight * (found**2).sum(-1) / 2, weight * (wanted**2).sum(-1) / 2, whole),
        lost=1.0 - float(seen.sum() / pairs.sum()) if pairs.any() else float("nan"),
    )


@dataclass(frozen=True, kw_only=True)
class TruePlaces:
    """Where the objects of a content are on a grid, which frames count, and their masses."""

    places: Places
    counted: Bool[np.ndarray, "objects f"]
    masses: Sequence[float]


class MotionErrors:
    """The measure of motion: errors of velocity, momentum and energy after the given frames."""

    def __init__(
        self,
        reader: Callable[[Shaped[Tensor, "c f h w"], int], Places],
        truth: Callable[[Any, Grid], TruePlaces],
        *,
        axis: int | None = 0,
    ) -> None:
        """`reader` takes a video and the number of objects, `truth` a content and a grid."""
        self.reader, self.truth, self.axis = reader, truth, axis

    def __call__(self, made: Generated, stage: str) -> Scores:
        """The scores of a stage."""
        grid, given = made.grids[stage], made.given_at(stage)
        found = []
        for video, content in zip(made.videos[stage], made.contents, strict=True):
            true = self.truth(content, grid)
            counted = true.counted.copy()
            counted[:, : max(given - 1, 0)] = False
            read = self.reader(video, len(true.places))
            found.append(
                motion(read, true.places, counted, fps=grid.fps, masses=true.masses, axis=self.axis)
            )
        units = {"velocity": "units/s", "momentum": "", "energy": "", "lost": ""}
        return Scores(
            figures={
                f"{name} error" if name != "lost" else "share of steps without the object": Figure(
                    each=[getattr(one, name) for one in found], lower_is_better=True, unit=unit
                )
                for name, unit in units.items()
            },
            records=[vars(one) for one in found],
        )


def _relative(
    found: Float[np.ndarray, "objects f *c"],
    wanted: Float[np.ndarray, "objects f *c"],
    counted: Bool[np.ndarray, " f"],
) -> float:
    """The mean error of the sum over objects, by the mean of the sum of their absolute values."""
    if not counted.any():
        return float("nan")
    error = np.abs(found.sum(0) - wanted.sum(0))[counted]
    scale = np.abs(wanted).sum(0)[counted]
    return float(error.sum() / max(float(scale.sum()), 1e-9))
