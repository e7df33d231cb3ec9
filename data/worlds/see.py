"""Finds the object of a procedural world in pixels: background, colour, coverage, centre and form.

It also works for generated videos: every step is a robust estimate (medians, weighted centroids,
templates with blur).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product

import numpy as np
from jaxtyping import Bool, Float, Integer, Shaped
from torch import Tensor

from data.worlds.attributes import BACKGROUNDS, COLOURS
from data.worlds.raster import SHAPES, edges

NONE = "none"
"""The value of an attribute without an object, or without a clear result."""

Clip = Float[np.ndarray, "f h w 3"]
Track = Float[np.ndarray, " f"]
Level = Float[np.ndarray, " 3"]

WORKING_SIZE = 32
"""Larger clips are averaged down to about this shorter side: the resolution of all readings."""
REACH = 0.34
"""Pixels further than this from the object's peak are not the object."""
LEAST_AREA = 0.012
"""A smaller share of a square frame is not an object; the smallest object covers 0.03."""
BLURS = (0.0, 0.5, 0.8, 1.2, 2.0)
"""Standard deviations, in pixels, of the templates' blur."""


def to_levels(video: Shaped[Tensor, "3 f rows columns"]) -> Clip:
    """The clip in [0, 255], averaged down to the working size."""
    pixels = video.detach().cpu().double()
    if video.is_floating_point():
        pixels = (pixels.clamp(-1, 1) + 1) * 127.5
    factor = max(1, min(pixels.shape[-2:]) // WORKING_SIZE)
    channels, frames, height, width = pixels.shape
    height, width = height // factor * factor, width // factor * factor
    blocks = pixels[..., :height, :width].reshape(
        channels, frames, height // factor, factor, width // factor, factor
    )
    clip: Clip = blocks.mean(dim=(3, 5)).permute(1, 2, 3, 0).numpy()
    return clip


def border(clip: Float[np.ndarray, "f h w c"]) -> Float[np.ndarray, "n c"]:
    """The pixels of the frame's outermost ring, of all frames."""
    rows = clip[:, [0, -1]].reshape(-1, clip.shape[-1])
    columns = clip[:, 1:-1, [0, -1]].reshape(-1, clip.shape[-1])
    return np.concatenate([rows, columns])


def find_ground(clip: Clip) -> Level:
    """The colour of the background: the median of the border, which objects rarely touch."""
    median: Level = np.median(border(clip), axis=0)
    return median


def nearest_background(ground: Level) -> str:
    """The name of the background, or `NONE` if all are far."""
    distance = {
        name: float(np.linalg.norm(ground - np.array(level))) for name, level in BACKGROUNDS.items()
    }
    best = min(distance, key=distance.__getitem__)
    return best if distance[best] < 60 else NONE


def colour_votes(
    clip: Clip, ground: Level
) -> tuple[Integer[np.ndarray, " f"], Bool[np.ndarray, " f"], Float[np.ndarray, "colours 3"]]:
    """The colour's number in every frame, whether it is clear, and each colour less the background.

    A pixel of coverage a is ground + a (ink − ground), so it is on the ray to its ink. Each frame
    votes for the ray that explains the most of its energy.
    """
    rays = np.array(list(COLOURS.values())) - ground
    lengths = np.linalg.norm(rays, axis=1)
    difference = (clip - ground).reshape(len(clip), -1, 3)
    strength = np.linalg.norm(difference, axis=2)
    noise = np.median(np.linalg.norm(border(clip) - ground, axis=1))
    difference = np.where(strength[..., None] > max(30.0, 2.5 * noise), difference, 0.0)
    along = np.maximum(difference @ (rays / lengths[:, None]).T, 0.0)
    energy = (difference**2).sum((1, 2))
    explained = (along**2).sum(1)
    shown = (energy > 0) & (explained.max(1) > 0.7 * energy)
    return np.argmax(explained, axis=1), shown, rays


@dataclass(frozen=True, kw_only=True)
class Seen:
    """The object in every frame: its coverage, its centre, and whether it is present."""

    coverage: Float[np.ndarray, "f h w"]
    x: Track
    y: Track
    present: Bool[np.ndarray, " f"]


def find(clip: Clip, ground: Level, ink: Float[np.ndarray, "#f 3"]) -> Seen:
    """Coverage, by projection on the ink's ray around its peak, and its weighted centroid."""
    _, height, width, _ = clip.shape
    shorter = min(height, width)
    toward = np.broadcast_to(ink / (ink**2).sum(1, keepdims=True), (len(clip), 3))
    coverage = np.einsum("fhwc,fc->fhw", clip - ground, toward)
    noise = float(np.median(np.abs(border(coverage[..., None]))))
    coverage = np.where(coverage > max(0.08, 4 * noise), np.minimum(coverage, 1.15), 0.0)
    ys, xs = (_centres(size, shorter) for size in (height, width))
    smooth = _blur(coverage, 0.06 * shorter)
    peak = smooth.reshape(len(clip), -1).argmax(1)
    far_y = ys[None, :] - ys[peak // width][:, None]
    far_x = xs[None, :] - xs[peak % width][:, None]
    near = np.hypot(far_y[:, :, None], far_x[:, None, :]) < REACH
    coverage = np.where(near, coverage, 0.0)
    mass = coverage.sum((1, 2))
    weight = np.maximum(mass, 1e-9)
    return Seen(
        coverage=coverage,
        x=(coverage.sum(1) @ xs) / weight,
        y=(coverage.sum(2) @ ys) / weight,
        present=mass / shorter**2 > LEAST_AREA,
    )


def _centres(size: int, shorter: int) -> Float[np.ndarray, " n"]:
    borders = edges(size, shorter)
    centres: Float[np.ndarray, " n"] = (borders[1:] + borders[:-1]) / 2
    return centres


def _blur(images: Float[np.ndarray, "f h w"], sigma: float) -> Float[np.ndarray, "f h w"]:
    """Gaussian blur of `sigma` pixels; zero beyond the border."""
    if sigma == 0:
        return images
    kernels = []
    for size in images.shape[1:]:
        apart = np.subtract.outer(np.arange(size), np.arange(size))
        kernel = np.exp(-(apart**2) / (2 * sigma**2))
        kernels.append(kernel / (sigma * np.sqrt(2 * np.pi)))
    blurred: Float[np.ndarray, "f h w"] = kernels[0] @ images @ kernels[1].T
    return blurred


def template_scores(
    seen: Seen, frames: Integer[np.ndarray, " n"], extents: Iterable[float]
) -> dict[tuple[str, float, float], Float[np.ndarray, " n"]]:
    """The correlation of each (shape, extent, blur), at the object's centre, in these frames."""
    found = seen.coverage[frames]
    found_norm = np.sqrt((found**2).sum((1, 2)))
    scores: dict[tuple[str, float, float], Float[np.ndarray, " n"]] = {}
    for shape, extent in product(SHAPES, extents):
        sharp = SHAPES[shape](seen.x[frames], seen.y[frames], float(extent), *found.shape[1:])
        for sigma in BLURS:
            template = _blur(sharp, sigma)
            norm = np.sqrt((template**2).sum((1, 2))) * found_norm
            scores[shape, float(extent), sigma] = (template * found).sum((1, 2)) / norm
    return scores
