"""How far objects in a generated video move from the truth: velocity, momentum and energy.

Where the objects are is read by a parser and known from the world, so this module works for any.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

Places = Float[np.ndarray, "objects f 2"]
"""Centres, in units; NaN where an object is not seen."""


@dataclass(frozen=True, kw_only=True)
class Motion:
    """The errors of one video, over the counted pairs of neighbouring frames.

    `velocity` is the mean |v − v̂| along `axis`, in units per second (PhyWorld's measure), NaN if
    nothing was read. `momentum` and `energy` are the mean errors of Σ m v and of Σ m v² / 2,
    relative to the truth's scale. `lost` is the share of the counted pairs with an object unseen.
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
    if not read.shape == true.shape or counted.shape != true.shape[:2] or true.shape[1] < 2:
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
        lost=1.0 - float(seen.sum() / pairs.sum()) if pairs.any() else 0.0,
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
