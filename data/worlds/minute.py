"""The world of a minute: one object that goes to and fro, rests, leaves the frame and comes back.

Lengths are in units of the frame's shorter side, from its centre, x to the right and y down. The
object turns at the frame's own borders, so a state is another path, with the same story at the same
times, in another aspect ratio.
"""

from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float, UInt8

from cascade import keyed
from cascade.grid import Grid
from data.worlds.attributes import BACKGROUNDS, COLOURS
from data.worlds.raster import EXTENTS, SHAPES, edges, overlap
from data.worlds.story import (
    ACROSS,
    GONE,
    LENGTH,
    STARTS,
    TEMPLATES,
    TRAINED,
    UPRIGHT,
    Content,
    prompt,
)
from data.worlds.world import World

SIZE = 0.2
"""Half of the object's extent."""
SPEED = 0.08
"""Of every motion, per second: 2.6 pixels from frame to frame at 16 pixels and 0.5 fps."""
MARGIN = 0.01
"""Between the object and the border where it turns."""
NEAR = 0.15
"""An object that leaves is at most so far from where it would turn: it is out within 7 s."""
LEAVES = 0.4
"""The share of training clips whose object leaves."""
CHUNK = 64
"""Frames that are rendered at once."""
AXES = {ACROSS: 0, UPRIGHT: 1}

VERSION = 1
"""Increase it when the same key is drawn, rendered or captioned differently."""

Track = Float[np.ndarray, " f"]
_STAYING, _LEAVING = (
    [content for content in TRAINED if (GONE in content.parts) is leaves]
    for leaves in (False, True)
)


@dataclass(frozen=True, kw_only=True)
class MinuteState:
    """A clip of the world of a minute: its content, and what decides the object's path.

    `phases` say where on its way to and fro along x and y the object starts, in shares of a period.
    On leaving it is `near` the border of `side`. The clip begins at `begin` seconds of the story.
    """

    content: Content
    phases: tuple[float, float]
    near: float
    side: int
    begin: float


@dataclass(frozen=True, kw_only=True)
class Path:
    """Where the object is: straight lines between points (times, x, y)."""

    points: list[tuple[float, float, float]]

    def at(self, times: Track) -> tuple[Track, Track]:
        """The object's centre at these times."""
        when, x, y = np.array(self.points).T
        return np.interp(times, when, x), np.interp(times, when, y)


class Walk:
    """Makes the path of a state in a frame of half sides `half`."""

    def __init__(self, state: MinuteState, half: tuple[float, float]) -> None:
        extents = EXTENTS[state.content.shape]
        sides = list(zip(half, extents, strict=True))
        self.room = [side - extent * SIZE - MARGIN for side, extent in sides]
        self.outside = [side + extent * SIZE for side, extent in sides]
        self.state = state
        self.way = [4 * room * p for room, p in zip(self.room, state.phases, strict=True)]
        self.parts = list(zip(STARTS, (*STARTS[1:], LENGTH), state.content.parts, strict=True))
        self._meet_the_border()
        self.place = [self._turned(axis) for axis in (0, 1)]
        self.points: list[tuple[float, float, float]] = []

    def path(self) -> Path:
        """The whole path."""
        before = ""
        self._point(0.0)
        for start, end, doing in self.parts:
            self._point(start)
            if doing in AXES:
                axis = AXES[doing]
                inside = self._enter(axis, start) if before == GONE else start
                self._to_and_fro(axis, inside, end)
            elif doing == GONE and before != GONE:
                self._leave(AXES[before], start)
            self._point(end)
            before = doing
        return Path(points=self.points)

    def _meet_the_border(self) -> None:
        """Choose the phase with which a leaving object is `near` its border when it leaves."""
        moved, before = [0.0, 0.0], ""
        for start, end, doing in self.parts:
            if doing == GONE:
                axis = AXES[before]
                turn = (2 if self.state.side > 0 else 4) * self.room[axis]
                self.way[axis] = (turn - self.state.near - moved[axis]) % (4 * self.room[axis])
                return
            if doing in AXES:
                moved[AXES[doing]] += SPEED * (end - start)
            before = doing

    def _turned(self, axis: int) -> float:
        """The coordinate after a way from one border to the other and back."""
        room, way = self.room[axis], self.way[axis] % (4 * self.room[axis])
        return way - room if way < 2 * room else 3 * room - way

    def _to_and_fro(self, axis: int, start: float, end: float) -> None:
        """Move from border to border, with a point at each."""
        while start < end:
            rest = 2 * self.room[axis] - self.way[axis] % (2 * self.room[axis])
            rest += 2 * self.room[axis] if rest < 1e-9 else 0.0  # it stands at the border
            step = min(rest / SPEED, end - start)
            start += step
            self.way[axis] += step * SPEED
            self.place[axis] = self._turned(axis)
            self._point(start)

    def _leave(self, axis: int, start: float) -> None:
        """Move on through the border until nothing of the object is visible."""
        goal = self.state.side * self.outside[axis]
        seconds = abs(goal - self.place[axis]) / SPEED
        self.place[axis] = goal
        self._point(start + seconds)

    def _enter(self, axis: int, start: float) -> float:
        """Move in to where the object turns otherwise; returns when it is there."""
        seconds = (self.outside[axis] - self.room[axis]) / SPEED
        self.way[axis] = (2 if self.state.side > 0 else 4) * self.room[axis]
        self.place[axis] = self.state.side * self.room[axis]
        self._point(start + seconds)
        return start + seconds

    def _point(self, time: float) -> None:
        self.points.append((time, self.place[0], self.place[1]))


def half_sides(grid: Grid) -> tuple[float, float]:
    """Half of the frame's width and height, in units of the shorter side."""
    shorter = min(grid.height, grid.width)
    return grid.width / shorter / 2, grid.height / shorter / 2


class Minute(World[MinuteState]):
    """One object of 3 shapes and 4 colours, on 2 backgrounds, with a story of four parts."""

    name: ClassVar[str] = "minute"
    phrasings: ClassVar[int] = len(TEMPLATES)

    def __init__(self, *, duration: float = LENGTH) -> None:
        """Clips of `duration` seconds: the whole story, or a part of it.

        Half of the shorter clips have a turn, or another point of the path, inside them.
        """
        if not 0 < duration <= LENGTH:
            raise ValueError(
                f"minute: the world lasts {LENGTH:g} s, so clips may last from 0 to {LENGTH:g} s, "
                f"got {duration:g}; take fewer frames or more of them per second"
            )
        self.duration = float(duration)

    @property
    def recipe(self) -> dict[str, Any]:
        """Everything that the drawn states depend on, as JSON."""
        return {"world": self.name, "version": VERSION, "duration": self.duration}

    def sample(self, seed: int, position: int, content: Content | None = None) -> MinuteState:
        """The state of (seed, position): with the given content, or a trained one."""
        rng = np.random.default_rng(keyed.key(seed, position, "minute/state"))
        pool = _LEAVING if rng.uniform() < LEAVES else _STAYING
        drawn = pool[int(rng.integers(len(pool)))]
        whole = MinuteState(
            content=content or drawn,
            phases=(float(rng.uniform()), float(rng.uniform())),
            near=float(rng.uniform(0, NEAR)),
            side=int(rng.choice((-1, 1))),
            begin=0.0,
        )
        return MinuteState(**{**vars(whole), "begin": self._begin(whole, rng)})

    def _begin(self, state: MinuteState, rng: np.random.Generator) -> float:
        """When a clip begins: anywhere, or so that a point of the path lies inside it."""
        last = LENGTH - self.duration
        turns = [when for when, *_ in Walk(state, (0.5, 0.5)).path().points]
        turn = turns[int(rng.integers(len(turns)))] - rng.uniform(0, self.duration)
        free = rng.uniform(0, last)
        return float(np.clip(turn if rng.uniform() < 0.5 else free, 0, last))

    def render(self, state: MinuteState, grid: Grid) -> UInt8[np.ndarray, "f h w 3"]:
        """The clip on `grid`: frame i is the scene at i / fps, a pixel its mean over its area.

        Raises:
            ValueError: the grid lasts longer than the story.
        """
        x, y = Walk(state, half_sides(grid)).path().at(_times(state, grid))
        shape = SHAPES[state.content.shape]
        ground = np.array(BACKGROUNDS[state.content.background], dtype=np.float64)
        ink = np.array(COLOURS[state.content.colour], dtype=np.float64)
        frames = np.empty((*grid.shape, 3), dtype=np.uint8)
        for first in range(0, grid.frames, CHUNK):
            part = slice(first, first + CHUNK)
            covered = shape(x[part], y[part], SIZE, grid.height, grid.width)
            frames[part] = np.rint(ground + covered[..., None] * (ink - ground))
        return frames

    def track(self, state: MinuteState, grid: Grid) -> dict[str, list[Any]]:
        """The object in every frame: its centre, what it does, and about which share is visible."""
        times = _times(state, grid)
        half = half_sides(grid)
        places = Walk(state, half).path().at(times)
        shown = np.ones(len(times))
        for place, extent, side in zip(places, EXTENTS[state.content.shape], half, strict=True):
            borders = edges(2, 1) * side
            reach = extent * SIZE
            inside = overlap(borders, place - reach, place + reach).sum(-1) * side
            shown *= inside / (2 * reach)
        parts = np.searchsorted(STARTS, times + 1e-9, side="right") - 1
        return {
            "x": np.round(places[0], 4).tolist(),
            "y": np.round(places[1], 4).tolist(),
            "visible": np.round(shown, 3).tolist(),
            "does": [state.content.parts[i] for i in parts],
        }

    def caption(self, state: MinuteState, phrasing: int, *, moving: bool = True) -> str:
        """The whole story, of a part of it too; without `moving` the object alone."""
        content = state.content
        if not moving:
            return f"a {content.colour} {content.shape} on {content.background}"
        return prompt(content, phrasing)

    def to_json(self, state: MinuteState) -> dict[str, Any]:
        """The state as JSON."""
        return asdict(state)

    def from_json(self, record: dict[str, Any]) -> MinuteState:
        """The inverse of `to_json`."""
        content = {**record["content"], "parts": tuple(record["content"]["parts"])}
        changed = {"content": Content(**content), "phases": tuple(record["phases"])}
        return MinuteState(**{**record, **changed})


def _times(state: MinuteState, grid: Grid) -> Track:
    """The times of the frames in the story.

    Raises:
        ValueError: the last is after its end.
    """
    times = state.begin + np.arange(grid.frames) / grid.fps
    if times[-1] > LENGTH + 1e-6:
        raise ValueError(
            f"minute: the story lasts {LENGTH:g} s, but the last frame of {grid} is at "
            f"{times[-1]:g} s; take fewer frames or more of them per second"
        )
    return np.asarray(times)
