"""Reads the world of a minute from pixels alone: the object in every frame, and what it does."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Shaped
from torch import Tensor

from data.worlds.attributes import COLOURS
from data.worlds.minute import SIZE
from data.worlds.raster import EXTENTS
from data.worlds.see import (
    NONE,
    Clip,
    Seen,
    Track,
    colour_votes,
    find,
    find_ground,
    nearest_background,
    template_scores,
    to_levels,
)
from data.worlds.story import ACROSS, GONE, LENGTH, STARTS, STILL, UPRIGHT, collapsed, part

LAST = 7.0
"""What is done in a part is read in its last seconds: a leaving object is out by then."""
GAP = 2.0
"""Seconds over which motion is read; the object moves by 0.16 of the shorter side."""
MOVED = 0.04
"""A shorter way in `GAP` is no motion."""
SHORT = 5.0
"""What lasts for fewer seconds is not told from a turn at the border."""
FORMS = 64
"""About the number of frames whose shape is read."""


@dataclass(frozen=True, kw_only=True)
class Frames:
    """The object in every frame: where it is, whether it is there, and its colour and shape.

    Colour and shape are `NONE` where they are unclear, and shape where it was not read, or the
    object is not wholly in the frame.
    """

    times: Track
    background: str
    x: Track
    y: Track
    present: Bool[np.ndarray, " f"]
    colour: list[str]
    shape: list[str]


def read_frames(video: Shaped[Tensor, "3 f h w"], fps: float) -> Frames:
    """The object in every frame of a clip: uint8, or float in [-1, 1]."""
    clip = to_levels(video)
    ground = find_ground(clip)
    votes, shown, rays = colour_votes(clip, ground)
    seen = find(clip, ground, rays[votes])
    present = seen.present & shown
    names = list(COLOURS)
    colours = [names[v] if there else NONE for v, there in zip(votes, present, strict=True)]
    return Frames(
        times=np.arange(len(clip)) / fps,
        background=nearest_background(ground),
        x=seen.x,
        y=seen.y,
        present=present,
        colour=colours,
        shape=_shapes(seen, present, clip),
    )


def _shapes(seen: Seen, present: Bool[np.ndarray, " f"], clip: Clip) -> list[str]:
    """The best template's shape in frames that show the whole object; `NONE` in all others."""
    shapes = [NONE] * len(clip)
    _, height, width, _ = clip.shape
    shorter = min(height, width)
    edge = np.maximum(np.abs(seen.x) - width / shorter / 2, np.abs(seen.y) - height / shorter / 2)
    # A part of a disc at the border looks like a bar, but is smaller than the object elsewhere.
    mass = seen.coverage.sum((1, 2))
    usual = np.median(mass[present]) if present.any() else 0.0
    whole = (edge < -SIZE) | ((edge < -0.3 * SIZE) & (mass > 0.85 * usual))
    frames = np.flatnonzero(present & whole)
    frames = frames[:: max(1, len(frames) // FORMS)]
    if not len(frames):
        return shapes
    tried = template_scores(seen, frames, np.geomspace(0.75 * SIZE, 1.25 * SIZE, 5))
    scores = np.array(list(tried.values()))
    best = scores.argmax(0)
    names = [shape for shape, _, _ in tried]
    for frame, one, score in zip(frames.tolist(), best.tolist(), scores.max(0), strict=True):
        if score >= 0.75 and _inside(names[one], seen.x[frame], seen.y[frame], width, height):
            shapes[frame] = names[one]
    return shapes


def _inside(shape: str, x: float, y: float, width: int, height: int) -> bool:
    """Whether an object of this shape at (x, y) is wholly in the frame, but for half a pixel."""
    shorter = min(height, width)
    along, down = EXTENTS[shape]
    slack = 0.5 / shorter
    return bool(
        abs(x) + along * SIZE <= width / shorter / 2 + slack
        and abs(y) + down * SIZE <= height / shorter / 2 + slack
    )


def doings(frames: Frames) -> tuple[Track, list[str]]:
    """(times, what the object does then), twice a second or at every frame.

    Motion is read over `GAP` seconds; the majority of 3 neighbouring readings, `GAP` apart, counts,
    so that a turn at the border is no rest.
    """
    step = float(frames.times[1] - frames.times[0]) if len(frames.times) > 1 else GAP
    gap = max(1, round(GAP / step))
    firsts = np.arange(0, len(frames.times) - gap, max(1, round(0.5 / step)))
    raw = [_doing(frames, first, first + gap) for first in firsts.tolist()]
    apart = max(1, round(gap / max(1, round(0.5 / step))))
    return frames.times[firsts] + GAP / 2, [
        _majority([raw[i] for i in (at - apart, at, at + apart) if 0 <= i < len(raw)], raw[at])
        for at in range(len(raw))
    ]


def _doing(frames: Frames, first: int, last: int) -> str:
    """What the object does between two frames."""
    there = frames.present[[first, last]]
    if not there.any():
        return GONE
    if not there.all():
        return NONE
    along, down = (abs(float(v[last] - v[first])) for v in (frames.x, frames.y))
    if max(along, down) < MOVED:
        return STILL
    return ACROSS if along > down else UPRIGHT


def _majority(readings: Sequence[str], own: str) -> str:
    """The reading that two agree on; else the middle one."""
    reading, count = Counter(readings).most_common(1)[0]
    return reading if count > 1 else own


def order(frames: Frames) -> tuple[str, ...]:
    """What the object does, in order, each as long as it lasts; what is too short is left out."""
    times, read = doings(frames)
    if not read:
        return ()
    step = float(times[1] - times[0]) if len(times) > 1 else GAP
    runs: list[tuple[str, int]] = []
    for doing in read:
        if runs and runs[-1][0] == doing:
            runs[-1] = (doing, runs[-1][1] + 1)
        else:
            runs.append((doing, 1))
    return collapsed([doing for doing, n in runs if n * step >= SHORT and doing != NONE])


def parse_minute(video: Shaped[Tensor, "3 f h w"], fps: float) -> dict[str, str]:
    """Attribute → value (or `NONE`) of a clip of the whole minute, as `Content.to_dict`."""
    frames = read_frames(video, fps)
    times, read = doings(frames)
    words = {
        "shape": _most(frames.shape),
        "colour": _most(frames.colour),
        "background": frames.background,
    }
    for start, end in zip(STARTS, (*STARTS[1:], LENGTH), strict=True):
        ends = min(end, float(frames.times[-1]))
        inside = (times > ends - LAST) & (times < ends - GAP / 2)
        words[part(start)] = _most([read[i] for i in np.flatnonzero(inside)])
    return words


def _most(values: Sequence[str]) -> str:
    """The value in most places, without `NONE`."""
    counted = Counter(value for value in values if value != NONE)
    return counted.most_common(1)[0][0] if counted else NONE


def read_story(video: Shaped[Tensor, "3 f h w"], fps: float) -> dict[str, Sequence[str]]:
    """What the object does, in order, and its colour and shape in every frame."""
    frames = read_frames(video, fps)
    return {"order": order(frames), "colour": frames.colour, "shape": frames.shape}
