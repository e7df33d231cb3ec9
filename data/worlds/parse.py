"""Reads the attributes of the world of shapes from pixels alone; an unclear one is `NONE`."""

import numpy as np
from jaxtyping import Shaped
from torch import Tensor

from data.worlds.attributes import COLOURS, DIRECTIONS, SIZES, VALUES
from data.worlds.see import (
    NONE,
    Clip,
    Level,
    Seen,
    colour_votes,
    find,
    find_ground,
    nearest_background,
    template_scores,
    to_levels,
)

MOVING = 0.18
"""A path of at least this length counts as motion; it is half of the shortest path."""


def parse(
    video: Shaped[Tensor, "3 f h w"], fps: float | None = None, *, duration: float = 2.0
) -> dict[str, str]:
    """Attribute → value (or `NONE`) of a clip: uint8, or float in [-1, 1].

    `duration` is the duration of the world's clips in seconds; without `fps` it is also assumed for
    this clip.
    """
    clip = to_levels(video)
    rate = fps or clip.shape[0] / duration
    ground = find_ground(clip)
    words = dict.fromkeys(VALUES, NONE)
    words["background"] = nearest_background(ground)
    colour, ink = _colour(clip, ground)
    if not colour:
        return words
    seen = find(clip, ground, ink[None])
    if seen.present.mean() < 0.5:
        return words
    words["colour"] = colour
    words["shape"], words["size"] = _form(seen)
    words["direction"] = _direction(seen, rate, duration)
    return words


def _colour(clip: Clip, ground: Level) -> tuple[str | None, Level]:
    """The object colour in most frames, and its difference to the background."""
    votes, shown, rays = colour_votes(clip, ground)
    if shown.mean() < 0.5:
        return None, rays[0]
    winner = int(np.bincount(votes[shown], minlength=len(COLOURS)).argmax())
    return list(COLOURS)[winner], rays[winner]


def _form(seen: Seen) -> tuple[str, str]:
    """Shape and size by templates: every shape × extent × blur, at the centre in each frame."""
    frames = np.flatnonzero(seen.present)
    frames = frames[:: max(1, len(frames) // 8)]
    small, large = SIZES["small"], SIZES["large"]
    scores = {
        template: float(np.median(score))
        for template, score in template_scores(
            seen, frames, np.geomspace(0.75 * small, 1.25 * large, 13)
        ).items()
    }
    shape, extent, blur = max(scores, key=scores.__getitem__)
    if scores[shape, extent, blur] < 0.75:
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
