"""Reads where the balls of the world of physics are: without bias, and as the paper does."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Shaped
from torch import Tensor

from data.worlds.dynamics import SIDE
from data.worlds.physics import GROUND, INKS

Read = Float[np.ndarray, "balls f 2"]
"""The centres in units, x to the right and y down; NaN where a ball is not seen."""
Reader = Callable[[Shaped[Tensor, "3 f h w"], int], Read]
"""(video: uint8, or float in [-1, 1]; number of balls) → centres."""

LEAST = 0.05
"""Less coverage of a pixel is noise."""
VISIBLE = 0.03
"""A ball covers at least so many square units; the smallest covers 0.28."""


def centroids(video: Shaped[Tensor, "3 f h w"], balls: int) -> Read:
    """The balls' centres as means of the pixels' centres, weighted by the share that is covered.

    A pixel is unmixed into ground and inks, so blurred borders shift nothing.
    """
    pixels = _levels(video)
    ground = np.array(GROUND, dtype=np.float64)
    inks = np.array(INKS[:balls]) - ground
    covered = np.clip((pixels - ground) @ np.linalg.pinv(inks), 0.0, 1.0)
    covered = np.where(covered > LEAST, covered, 0.0)
    return _means(np.moveaxis(covered, -1, 0), offset=0.5, span=min(pixels.shape[1:3]))


def hard_mask(video: Shaped[Tensor, "3 f h w"], balls: int) -> Read:
    """The paper's way: the mean index of all pixels that are nearer to the ink than to the ground.

    An index is divided by the width less one, so velocities are 1 / width too large.
    """
    pixels = _levels(video)
    levels = np.array([GROUND, *INKS[:balls]], dtype=np.float64)
    apart = np.linalg.norm(pixels[..., None, :] - levels, axis=-1)
    mask = apart.argmin(-1)[None] == np.arange(1, balls + 1)[:, None, None, None]
    return _means(mask.astype(np.float64), offset=0.0, span=min(pixels.shape[1:3]) - 1)


READERS: dict[str, Reader] = {"unbiased": centroids, "published": hard_mask}


def _levels(video: Shaped[Tensor, "3 f h w"]) -> Float[np.ndarray, "f h w 3"]:
    pixels = video.detach().cpu().double()
    if video.is_floating_point():
        pixels = (pixels.clamp(-1, 1) + 1) * 127.5
    levels: Float[np.ndarray, "f h w 3"] = pixels.permute(1, 2, 3, 0).numpy()
    return levels


def _means(covered: Float[np.ndarray, "balls f h w"], *, offset: float, span: int) -> Read:
    """Weighted mean indices (plus `offset`) over `span`, in units; the square is centred."""
    height, width = covered.shape[2:]
    shorter = min(height, width)
    mass = covered.sum((2, 3))
    weight = np.maximum(mass, 1e-9)
    y = (covered.sum(3) @ (np.arange(height) + offset)) / weight - (height - shorter) / 2
    x = (covered.sum(2) @ (np.arange(width) + offset)) / weight - (width - shorter) / 2
    seen = mass * (SIDE / shorter) ** 2 > VISIBLE
    return np.where(seen[..., None], np.stack([x, y], axis=-1) * (SIDE / span), np.nan)
