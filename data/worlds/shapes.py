"""The world of shapes: one object, straight motion or none, on a plain ground.

Lengths are in units of the frame's shorter side, measured from its centre, x to the right and y
down; so a state is the same clip at any size and is whole in any aspect ratio.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np
from jaxtyping import UInt8

from cascade import keyed
from cascade.grid import Grid
from data.worlds.attributes import (
    BACKGROUNDS,
    COLOURS,
    DIRECTIONS,
    HELD_OUT,
    SIZES,
    TRAINED,
    Attributes,
)
from data.worlds.raster import EXTENTS, SHAPES
from data.worlds.world import World

TEMPLATES: tuple[tuple[str, str, str, str], ...] = (
    (
        "a {size} {colour} {shape} {motion} on a {background} background",
        "moves {direction}",
        "stays still",
        "a {size} {colour} {shape} on a {background} background",
    ),
    (
        "on a {background} background, a {size} {colour} {shape} {motion}",
        "is moving {direction}",
        "is standing still",
        "on a {background} background, a {size} {colour} {shape}",
    ),
    (
        "{motion}: a {size} {shape}, {colour}, in front of {background}",
        "moving {direction}",
        "still",
        "a {size} {shape}, {colour}, in front of {background}",
    ),
    (
        "{background} background with a {colour} {shape} of {size} size {motion}",
        "going {direction}",
        "holding still",
        "{background} background with a {colour} {shape} of {size} size",
    ),
)
"""Per phrasing: the sentence, its words for motion and for none, and the sentence for an image."""


VERSION = 1
"""Increase it when the same key is drawn, rendered or captioned differently."""


@dataclass(frozen=True, kw_only=True)
class ShapesState:
    """A clip of the world of shapes: its attributes and its exact motion.

    (x, y) is the object's centre at time 0, `speed` is in shorter sides per second.
    """

    attributes: Attributes
    x: float
    y: float
    speed: float
    duration: float


class Shapes(World[ShapesState]):
    """One object of 3 shapes, 6 colours and 2 sizes, on 4 grounds, in 4 directions or still."""

    name: ClassVar[str] = "shapes"
    phrasings: ClassVar[int] = len(TEMPLATES)

    def __init__(
        self, *, duration: float = 2.0, travel: Sequence[float] = (0.36, 0.54), margin: float = 0.01
    ) -> None:
        """The object is completely visible and `margin` from the border for `duration` seconds.

        In that time a moving object covers a distance between the two of `travel`.

        Raises:
            ValueError: the largest object would leave the frame at the longest distance.
        """
        shortest, longest = travel
        needed = 2 * max(SIZES.values()) + 2 * margin + longest
        if not (duration > 0 and 0 < shortest <= longest and needed <= 1 + 1e-9):
            raise ValueError(
                f"shapes: travel from {shortest:g} to {longest:g} in {duration:g} s needs "
                f"{needed:.2f} of the frame; all must be positive, and at most 1 of the frame is "
                "available: shorten travel"
            )
        self.duration = float(duration)
        self.travel = (float(shortest), float(longest))
        self.margin = float(margin)

    @property
    def recipe(self) -> dict[str, Any]:
        """Everything that the drawn states depend on, as JSON."""
        return {
            "world": self.name,
            "version": VERSION,
            "duration": self.duration,
            "travel": list(self.travel),
            "margin": self.margin,
        }

    def sample(self, seed: int, position: int, attributes: Attributes | None = None) -> ShapesState:
        """The state of (seed, position): with the given attributes, or a trained combination."""
        rng = np.random.default_rng(keyed.key(seed, position, "shapes/state"))
        drawn = TRAINED[int(rng.integers(len(TRAINED)))]
        chosen = attributes or drawn
        heading = DIRECTIONS[chosen.direction]
        travel = float(rng.uniform(*self.travel)) if any(heading) else 0.0
        start: list[float] = []
        for step, extent in zip(heading, EXTENTS[chosen.shape], strict=True):
            room = 0.5 - extent * SIZES[chosen.size] - self.margin
            way = step * travel
            start.append(float(rng.uniform(-room - min(way, 0), room - max(way, 0))))
        return ShapesState(
            attributes=chosen,
            x=start[0],
            y=start[1],
            speed=travel / self.duration,
            duration=self.duration,
        )

    def render(self, state: ShapesState, grid: Grid) -> UInt8[np.ndarray, "f h w 3"]:
        """The clip on `grid`: frame i is the scene at i / fps, a pixel its mean over its area.

        Raises:
            ValueError: the grid lasts longer than the state.
        """
        times = np.arange(grid.frames) / grid.fps
        if times[-1] > state.duration + 1e-6:
            raise ValueError(
                f"shapes: the clip lasts {state.duration:g} s, but the last frame of {grid} is at "
                f"{times[-1]:g} s; create the world with a longer duration"
            )
        words = state.attributes
        along, down = DIRECTIONS[words.direction]
        x = state.x + along * state.speed * times
        y = state.y + down * state.speed * times
        covered = SHAPES[words.shape](x, y, SIZES[words.size], grid.height, grid.width)
        ground = np.array(BACKGROUNDS[words.background], dtype=np.float64)
        ink = np.array(COLOURS[words.colour], dtype=np.float64)
        pixels = ground + covered[..., None] * (ink - ground)
        return np.rint(pixels).astype(np.uint8)

    def caption(self, state: ShapesState, phrasing: int, *, moving: bool = True) -> str:
        """A sentence with every attribute; without `moving` for a still image."""
        return prompt(state.attributes, phrasing, moving=moving)

    def to_json(self, state: ShapesState) -> dict[str, Any]:
        """The state as JSON."""
        return asdict(state)

    def from_json(self, record: dict[str, Any]) -> ShapesState:
        """The inverse of `to_json`."""
        return ShapesState(**{**record, "attributes": Attributes(**record["attributes"])})


def prompt(attributes: Attributes, phrasing: int, *, moving: bool = True) -> str:
    """Sentence number `phrasing`, modulo their number, with every attribute."""
    sentence, move, rest, image = TEMPLATES[phrasing % len(TEMPLATES)]
    words = attributes.to_dict()
    if not moving:
        return image.format(**words)
    motion = (rest if attributes.direction == "still" else move).format(**words)
    return sentence.format(motion=motion, **words)


def heldout_prompts(n: int = 256) -> list[tuple[str, Attributes]]:
    """`n` held-out combinations with phrasings, as (prompt, attributes).

    All combinations take turns, each time in another phrasing; those of the last turn, if it is not
    complete, are evenly spread over them.

    Raises:
        ValueError: there are fewer than `n`.
    """
    count = len(HELD_OUT)
    most = count * len(TEMPLATES)
    if not 0 < n <= most:
        raise ValueError(f"held-out prompts: n must be from 1 to {most}, got {n}")
    turns, rest = divmod(n, count)
    chosen = [(turn, place) for turn in range(turns) for place in range(count)]
    chosen += [(turns, i * count // rest) for i in range(rest)]
    return [(prompt(HELD_OUT[place], turn + place), HELD_OUT[place]) for turn, place in chosen]
