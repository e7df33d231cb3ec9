"""Exact antialiased coverage: the share of each pixel that a shape covers, on any grid.

Coverage is an area, so averaging the pixels of a fine render gives the coarse render. Lengths are
in units of the frame's shorter side, from its centre, x to the right and y down.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float

Coverage = Float[np.ndarray, "f h w"]
Centres = Float[np.ndarray, " f"]

STRIPS = 256
"""A disc is cut into at least this many strips per shorter side, whose chords are exact."""


def edges(size: int, shorter: int) -> Float[np.ndarray, " n"]:
    """The `size + 1` borders of the pixels along an axis."""
    return (np.arange(size + 1) - size / 2) / shorter


def overlap(
    borders: Float[np.ndarray, " n"], low: Float[np.ndarray, "*s"], high: Float[np.ndarray, "*s"]
) -> Float[np.ndarray, "*s m"]:
    """The share of each pixel along an axis that the interval [low, high] covers."""
    pixel = borders[1] - borders[0]
    inside = np.minimum(high[..., None], borders[1:]) - np.maximum(low[..., None], borders[:-1])
    share: Float[np.ndarray, "*s m"] = np.clip(inside / pixel, 0.0, 1.0)
    return share


def box(x: Centres, y: Centres, half: tuple[float, float], height: int, width: int) -> Coverage:
    """An axis-aligned rectangle of half sides `half` (along x, y): a product of overlaps."""
    shorter = min(height, width)
    across = overlap(edges(width, shorter), x - half[0], x + half[0])
    down = overlap(edges(height, shorter), y - half[1], y + half[1])
    covered: Coverage = down[:, :, None] * across[:, None, :]
    return covered


def disc(x: Centres, y: Centres, radius: float, height: int, width: int) -> Coverage:
    """A disc: the overlap of its chord with every pixel, averaged over thin strips of a row."""
    shorter = min(height, width)
    strips = max(4, -(-STRIPS // shorter))
    rows = edges(height * strips, shorter * strips)
    offset = (rows[1:] + rows[:-1]) / 2 - y[:, None]
    chord = np.sqrt(np.maximum(radius**2 - offset**2, 0.0))
    covered = overlap(edges(width, shorter), x[:, None] - chord, x[:, None] + chord)
    mean: Coverage = covered.reshape(len(x), height, strips, width).mean(axis=2)
    return mean


def circle(x: Centres, y: Centres, size: float, height: int, width: int) -> Coverage:
    """A disc of radius 0.9 `size`, so that its area is about that of a cross."""
    return disc(x, y, 0.9 * size, height, width)


def bar(x: Centres, y: Centres, size: float, height: int, width: int) -> Coverage:
    """A horizontal bar, three times as long as high."""
    return box(x, y, (size, size / 3), height, width)


def cross(x: Centres, y: Centres, size: float, height: int, width: int) -> Coverage:
    """An upright cross of two boxes, a quarter as thick as long; the overlap counts once."""
    thick = size / 4
    lying = box(x, y, (size, thick), height, width)
    standing = box(x, y, (thick, size), height, width)
    covered: Coverage = lying + standing - box(x, y, (thick, thick), height, width)
    return covered


SHAPES: dict[str, Callable[[Centres, Centres, float, int, int], Coverage]] = {
    "circle": circle,
    "bar": bar,
    "cross": cross,
}
"""Shapes that can be distinguished at 16 pixels, by name; `size` is half of a bar's length."""

EXTENTS: dict[str, tuple[float, float]] = {
    "circle": (0.9, 0.9),
    "bar": (1.0, 1 / 3),
    "cross": (1.0, 1.0),
}
"""Half of the bounding box along (x, y), as a share of `size`."""
