"""Motion in closed form: balls that move uniformly, fall, or collide, after PhyWorld.

Kang et al. 2024, "How Far is Video Generation from World Model" (arXiv 2411.02385), section 3: a
square of 10×10 units, x to the right and y down, seconds, masses in proportion to r².
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

SIDE = 10.0
"""The side of the square."""
GRAVITY = 2.5
"""Of a parabola, in units per s²."""

Times = Float[np.ndarray, " f"]
Places = Float[np.ndarray, "balls f 2"]
Range = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Ball:
    """A ball at time 0: its radius, its centre and its velocity along x."""

    radius: float
    x: float
    y: float
    speed: float

    @property
    def mass(self) -> float:
        """In units of that of a ball of radius 1."""
        return self.radius**2


def uniform(balls: Sequence[Ball], times: Times) -> Places:
    """Uniform motion: x = x₀ + v t."""
    return np.stack([_line(ball, times) for ball in balls])


def parabola(balls: Sequence[Ball], times: Times) -> Places:
    """A throw along x: x = x₀ + v t, y = y₀ + g t² / 2."""
    fall = np.stack([np.zeros_like(times), GRAVITY / 2 * times**2], axis=-1)
    places: Places = uniform(balls, times) + fall
    return places


def collision(balls: Sequence[Ball], times: Times) -> Places:
    """Two balls on one height, before and after an elastic impact."""
    one, two = balls
    when = impact(one, two)
    before = uniform(balls, np.minimum(times, when))
    after = np.stack([np.maximum(times - when, 0.0), np.zeros_like(times)], axis=-1)
    places: Places = before + np.array(bounced(one, two))[:, None, None] * after
    return places


def impact(one: Ball, two: Ball) -> float:
    """The time at which two balls meet; infinite if they never do."""
    gap, closing = two.x - one.x - one.radius - two.radius, one.speed - two.speed
    return gap / closing if closing > 0 else float("inf")


def bounced(one: Ball, two: Ball) -> tuple[float, float]:
    """The velocities after an elastic impact: v₁′ = ((m₁ − m₂) v₁ + 2 m₂ v₂) / (m₁ + m₂)."""
    total = one.mass + two.mass
    centre = (one.mass * one.speed + two.mass * two.speed) / total
    return 2 * centre - one.speed, 2 * centre - two.speed


def _line(ball: Ball, times: Times) -> Float[np.ndarray, "f 2"]:
    return np.stack([ball.x + ball.speed * times, np.full_like(times, ball.y)], axis=-1)


@dataclass(frozen=True, kw_only=True)
class Law:
    """A law of motion: what it does to balls, and which balls are inside and out of its training.

    `inside` and `outside` give, per quantity ("r", "v"), the ranges of its values. `levels` names
    the sets of quantities that may be out of distribution: of one ball, or of each of two.
    """

    places: Callable[[Sequence[Ball], Times], Places]
    inside: Mapping[str, tuple[Range, ...]]
    outside: Mapping[str, tuple[Range, ...]]
    levels: tuple[tuple[str, ...], ...]
    balls: int


_ONE = {"r": ((0.7, 1.4),), "v": ((1.0, 4.0),)}
_ONE_OUT = {"r": ((0.3, 0.6), (1.5, 2.0)), "v": ((0.0, 0.8), (4.5, 6.0))}
_TWO = {"r": ((0.5, 1.5),), "v": ((1.0, 4.0),)}
_TWO_OUT = {"r": ((0.3, 0.4), (1.7, 2.0)), "v": ((0.0, 0.8), (4.5, 6.0))}
_ONE_LEVELS = (("r",), ("v",), ("r", "v"))
_TWO_LEVELS = (
    ("r1",),
    ("v1",),
    ("r1", "r2"),
    ("v1", "v2"),
    ("r1", "v1"),
    ("r1", "v1", "r2", "v2"),
)

LAWS: dict[str, Law] = {
    "uniform": Law(places=uniform, inside=_ONE, outside=_ONE_OUT, levels=_ONE_LEVELS, balls=1),
    "parabola": Law(places=parabola, inside=_ONE, outside=_ONE_OUT, levels=_ONE_LEVELS, balls=1),
    "collision": Law(places=collision, inside=_TWO, outside=_TWO_OUT, levels=_TWO_LEVELS, balls=2),
}
"""The laws by name, with the ranges of the paper."""


def whole(places: Places, radii: Float[np.ndarray, " balls"]) -> Bool[np.ndarray, "balls f"]:
    """Whether all of each ball is inside the square."""
    nearest = np.minimum(places, SIDE - places).min(-1)
    inside: Bool[np.ndarray, "balls f"] = nearest >= radii[:, None] - 1e-9
    return inside
