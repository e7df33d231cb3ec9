"""Reads the attributes of the world of shapes from pixels alone.

It also works for generated videos: every step is a robust estimate (medians, weighted centroids,
templates with blur), and an unclear attribute is `NONE`, not a guess.
"""

from dataclasses import dataclass
from itertools import product

import numpy as np
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from data.worlds.attributes import BACKGROUNDS, COLOURS, DIRECTIONS, SIZES, VALUES
from data.worlds.raster import SHAPES, edges

NONE = "none"
"""The value of an attribute without an object, or without a clear result."""

Clip = Float[np.ndarray, "f h w 3"]
Track = Float[np.ndarray, " f"]

WORKING_SIZE = 32
"""Larger clips are averaged down to about this shorter side: the parser's own resolution."""
REACH = 0.34
"""Pixels further than this from the object's peak are not the object."""
LEAST_AREA = 0.012
"""A smaller share of a square frame is not an object; the smallest object covers 0.03."""
MOVING = 0.18
"""A path of at least this length counts as motion; it is half of the shortest path."""


def parse(
    video: Shaped[Tensor, "3 f h w"], fps: float | None = None, *, duration: float = 2.0
) -> dict[str, str]:
    """Attribute → value (or `NONE`) of a clip: uint8, or float in [-1, 1].

    `duration` is the duration of the world's clips in seconds; without `fps` it is also assumed for
    this clip.
    """
    clip = _to_levels(video)
    rate = fps or clip.shape[0] / duration
    ground = _ground(clip)
    words = dict.fromkeys(VALUES, NONE)
    words["background"] = _nearest_background(ground)
    colour, ink = _colour(clip, ground)
    if not colour:
        return words
    seen = _find(clip, ground, ink)
    if seen.present.mean() < 0.5:
        return words
    words["colour"] = colour
    words["shape"], words["size"] = _form(seen)
    words["direction"] = _direction(seen, rate, duration)
    return words


def _to_levels(video: Shaped[Tensor, "3 f rows columns"]) -> Clip:
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


def _border(clip: Clip) -> Float[np.ndarray, "n 3"]:
    """The pixels of the frame's outermost ring, of all frames."""
    rows = clip[:, [0, -1]].reshape(-1, 3)
    columns = clip[:, 1:-1, [0, -1]].reshape(-1, 3)
    return np.concatenate([rows, columns])


def _ground(clip: Clip) -> Float[np.ndarray, " 3"]:
    """The colour of the background: the median of the border, which objects rarely touch."""
    median: Float[np.ndarray, " 3"] = np.median(_border(clip), axis=0)
    return median


def _nearest_background(ground: Float[np.ndarray, " 3"]) -> str:
    distance = {
        name: float(np.linalg.norm(ground - np.array(level))) for name, level in BACKGROUNDS.items()
    }
    best = min(distance, key=distance.__getitem__)
    return best if distance[best] < 60 else NONE


def _colour(
    clip: Clip, ground: Float[np.ndarray, " 3"]
) -> tuple[str | None, Float[np.ndarray, " 3"]]:
    """The object colour in most frames, and its difference to the background.

    A pixel of coverage a is ground + a (ink − ground), so it is on the ray to its ink. Each frame
    votes for the ray that explains the most of its energy.
    """
    names = list(COLOURS)
    rays = np.array([COLOURS[name] for name in names]) - ground
    lengths = np.linalg.norm(rays, axis=1)
    difference = (clip - ground).reshape(len(clip), -1, 3)
    strength = np.linalg.norm(difference, axis=2)
    noise = np.median(np.linalg.norm(_border(clip) - ground, axis=1))
    difference = np.where(strength[..., None] > max(30.0, 2.5 * noise), difference, 0.0)
    along = np.maximum(difference @ (rays / lengths[:, None]).T, 0.0)
    energy = (difference**2).sum((1, 2))
    explained = (along**2).sum(1)
    votes = np.argmax(explained, axis=1)
    shown = (energy > 0) & (explained.max(1) > 0.7 * energy)
    if shown.mean() < 0.5:
        return None, rays[0]
    winner = int(np.bincount(votes[shown], minlength=len(names)).argmax())
    return names[winner], rays[winner]


@dataclass(frozen=True, kw_only=True)
class Seen:
    """The object in every frame: its coverage, its centre, and whether it is present."""

    coverage: Float[np.ndarray, "f h w"]
    x: Track
    y: Track
    present: Bool[np.ndarray, " f"]


def _find(clip: Clip, ground: Float[np.ndarray, " 3"], ink: Float[np.ndarray, " 3"]) -> Seen:
    """Coverage, by projection on the ink's ray around its peak, and its weighted centroid."""
    _, height, width, _ = clip.shape
    shorter = min(height, width)
    coverage = (clip - ground) @ ink / (ink @ ink)
    noise = float(np.median(np.abs((_border(clip) - ground) @ ink))) / float(ink @ ink)
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


def _form(seen: Seen) -> tuple[str, str]:
    """Shape and size by templates: every shape × extent × blur, at the centre in each frame."""
    frames = np.flatnonzero(seen.present)
    frames = frames[:: max(1, len(frames) // 8)]
    found = seen.coverage[frames]
    found_norm = np.sqrt((found**2).sum((1, 2)))
    small, large = SIZES["small"], SIZES["large"]
    extents = np.geomspace(0.75 * small, 1.25 * large, 13)
    scores: dict[tuple[str, float], float] = {}
    for shape, extent in product(SHAPES, extents):
        sharp = SHAPES[shape](seen.x[frames], seen.y[frames], float(extent), *found.shape[1:])
        for sigma in (0.0, 0.5, 0.8, 1.2, 2.0):
            template = _blur(sharp, sigma)
            norm = np.sqrt((template**2).sum((1, 2))) * found_norm
            score = float(np.median((template * found).sum((1, 2)) / norm))
            scores[shape, extent] = max(score, scores.get((shape, extent), 0.0))
    shape, extent = max(scores, key=scores.__getitem__)
    if scores[shape, extent] < 0.75:
        return NONE, NONE
    return shape, "small" if extent**2 < small * large else "large"


def _direction(seen: Seen, fps: float, duration: float) -> str:
    """The direction of the centre's path, by the median of all pairwise slopes."""
    frames = np.flatnonzero(seen.present)
    first, second = np.triu_indices(len(frames), k=1)
    if len(first) == 0:
        return NONE
    gaps = (frames[second] - frames[first]) / fps
    way = []
    for place in (seen.x[frames], seen.y[frames]):
        slope = float(np.median((place[second] - place[first]) / gaps))
        rest = place - slope * frames / fps
        if np.median(np.abs(rest - np.median(rest))) > 0.08:
            return NONE
        way.append(slope * duration)
    along, across = sorted(np.abs(way), reverse=True)
    if along < MOVING:
        return "still"
    if across > 0.6 * along:
        return NONE
    heading = tuple(int(np.sign(w)) if abs(w) == along else 0 for w in way)
    return next(name for name, step in DIRECTIONS.items() if step == heading)
