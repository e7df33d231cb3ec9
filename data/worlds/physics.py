"""The world of physics: one or two balls on white that obey a law of motion; see `dynamics`."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float, UInt8

from cascade import keyed
from cascade.eval.motion import TruePlaces
from cascade.grid import Grid
from data.worlds.dynamics import (
    LAWS,
    SIDE,
    Ball,
    Places,
    Range,
    Times,
    impact,
    whole,
)
from data.worlds.raster import disc
from data.worlds.world import World

GROUND = (255, 255, 255)
INKS = ((226, 44, 40), (52, 92, 244))
"""The colours of the first and the second ball."""
GIVEN = 3
"""Frames of a clip that a model is given; its errors are those of the later ones."""
DURATION = 3.1
"""Seconds from the first to the last of 32 frames at 10 per second."""
THROWN = 4.0
"""A ball is thrown from at most so far below the upper border, in units."""
MEET = (0.5, 1.5)
"""When two balls meet, in seconds; where the frame has no room for it, sooner."""
CAPTIONS = {
    "uniform": "a red ball moves at a constant speed",
    "parabola": "a red ball is thrown and falls",
    "collision": "a red ball and a blue ball collide",
}
VERSION = 1
"""Increase it when the same key is drawn, rendered or captioned differently."""


@dataclass(frozen=True, kw_only=True)
class PhysicsState:
    """A clip of the world of physics: its law and its balls at time 0."""

    law: str
    balls: tuple[Ball, ...]

    @property
    def radii(self) -> Float[np.ndarray, " balls"]:
        """The balls' radii in units."""
        return np.array([ball.radius for ball in self.balls])

    def places(self, times: Times) -> Places:
        """The balls' centres in units, x to the right and y down."""
        return LAWS[self.law].places(self.balls, times)


class Physics(World[PhysicsState]):
    """Balls that move by a law: "uniform", "parabola" or "collision"."""

    name: ClassVar[str] = "physics"
    phrasings: ClassVar[int] = 1

    def __init__(
        self, law: str, *, duration: float = DURATION, outside: Sequence[str] = ()
    ) -> None:
        """Clips of `duration` seconds.

        `outside` names the quantities that are out of the training's distribution: "r" and "v", of
        two balls "r1", "v1", "r2" and "v2". `LAWS[law].levels` has sets of them.

        Raises:
            ValueError: an unknown law or quantity.
        """
        if law not in LAWS:
            raise ValueError(f"physics: law must be one of {[*LAWS]}, got {law!r}")
        known = quantities(law)
        if unknown := [name for name in outside if name not in known]:
            raise ValueError(
                f"physics: outside must be of {[*known]} for {law}, got {unknown}; "
                f"levels: {[list(level) for level in LAWS[law].levels]}"
            )
        self.law = law
        self.duration = float(duration)
        self.outside = tuple(outside)

    @property
    def recipe(self) -> dict[str, Any]:
        """Everything that the drawn states depend on, as JSON."""
        return {
            "world": self.name,
            "version": VERSION,
            "law": self.law,
            "duration": self.duration,
            "outside": [*self.outside],
        }

    def sample(self, seed: int, position: int) -> PhysicsState:
        """The state of (seed, position); with `outside` one that is never trained."""
        rng = np.random.default_rng(keyed.key(seed, position, f"physics/{self.law}"))
        drawn = {name: self._draw(name, rng) for name in quantities(self.law)}
        balls = (
            _colliding(drawn, rng) if self.law == "collision" else (_alone(drawn, self.law, rng),)
        )
        return PhysicsState(law=self.law, balls=balls)

    def _draw(self, name: str, rng: np.random.Generator) -> float:
        """A value of a quantity, uniform over its ranges."""
        law = LAWS[self.law]
        ranges = (law.outside if name in self.outside else law.inside)[name[0]]
        return _within(ranges, float(rng.uniform()))

    def render(self, state: PhysicsState, grid: Grid) -> UInt8[np.ndarray, "f h w 3"]:
        """The clip on `grid`: frame i is the scene at i / fps, a pixel its mean over its area.

        The square of the world fills the frame's shorter side, at its centre.
        """
        times = np.arange(grid.frames) / grid.fps
        ground = np.array(GROUND, dtype=np.float64)
        pixels = np.tile(ground, (*grid.shape, 1))
        for ink, ball, centre in zip(INKS, state.balls, state.places(times), strict=False):
            x, y = centre.T / SIDE - 0.5
            covered = disc(x, y, ball.radius / SIDE, grid.height, grid.width)
            pixels += covered[..., None] * (np.array(ink) - ground)
        return np.rint(pixels).astype(np.uint8)

    def track(self, state: PhysicsState, grid: Grid) -> dict[str, list[Any]]:
        """The balls in every frame: their centres in units, and whether they are wholly visible."""
        places = state.places(np.arange(grid.frames) / grid.fps)
        return {
            "x": np.round(places[..., 0], 5).tolist(),
            "y": np.round(places[..., 1], 5).tolist(),
            "whole": whole(places, state.radii).tolist(),
        }

    def caption(self, state: PhysicsState, phrasing: int, *, moving: bool = True) -> str:
        """The law's sentence: what happens follows from the first frames, not from the text."""
        del phrasing, moving
        return CAPTIONS[state.law]

    def to_json(self, state: PhysicsState) -> dict[str, Any]:
        """The state as JSON."""
        return asdict(state)

    def from_json(self, record: dict[str, Any]) -> PhysicsState:
        """The inverse of `to_json`."""
        return PhysicsState(law=record["law"], balls=tuple(Ball(**one) for one in record["balls"]))


def quantities(law: str) -> tuple[str, ...]:
    """The quantities of a law that are drawn: "r" and "v", numbered if there are two balls."""
    if LAWS[law].balls == 1:
        return ("r", "v")
    return ("r1", "v1", "r2", "v2")


def _within(ranges: Sequence[Range], share: float) -> float:
    """The value at `share` of the ranges, laid end to end."""
    along = share * sum(high - low for low, high in ranges)
    for low, high in ranges:
        if along <= high - low:
            return low + along
        along -= high - low
    return ranges[-1][1]


def _alone(drawn: dict[str, float], law: str, rng: np.random.Generator) -> Ball:
    """A ball that enters at the left, or is thrown to the right from the upper part."""
    radius, speed = drawn["r"], drawn["v"]
    lowest = SIDE - radius if law == "uniform" else THROWN
    x, y = rng.uniform(radius, radius + 1.0), rng.uniform(radius, lowest)
    return Ball(radius=radius, x=float(x), y=float(y), speed=speed)


def _colliding(drawn: dict[str, float], rng: np.random.Generator) -> tuple[Ball, Ball]:
    """Two balls that move toward each other on one height.

    Both are wholly visible until they meet.
    """
    r1, r2, v1, v2 = drawn["r1"], drawn["r2"], drawn["v1"], -drawn["v2"]
    room = SIDE - 2 * (r1 + r2)
    gap = float(np.clip(rng.uniform(*MEET) * (v1 - v2), 0.3, room))
    left = r1 + float(rng.uniform()) * (room - gap)
    height = SIDE / 2
    one = Ball(radius=r1, x=left, y=height, speed=v1)
    two = Ball(radius=r2, x=left + r1 + gap + r2, y=height, speed=v2)
    return one, two


def true_places(state: PhysicsState, grid: Grid) -> TruePlaces:
    """Where a state's balls are; frames count in which a ball is whole, after an impact if any."""
    times = np.arange(grid.frames) / grid.fps
    places = state.places(times)
    counted = whole(places, state.radii)
    if state.law == "collision":
        counted &= times >= impact(*state.balls)
    return TruePlaces(places=places, counted=counted, masses=[ball.mass for ball in state.balls])


def heldout_prompts(
    n: int = 64, *, law: str = "uniform", outside: Sequence[str] = (), seed: int = 1
) -> list[tuple[str, PhysicsState]]:
    """`n` states as (prompt, state), of another seed than training's; see `Physics.outside`."""
    world = Physics(law, outside=outside)
    states = [world.sample(seed, position) for position in range(n)]
    return [(world.caption(state, 0), state) for state in states]
