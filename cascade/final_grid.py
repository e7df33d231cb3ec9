"""The grids of stages, from the size of the final video or of the video that they begin with."""

import math
from collections.abc import Mapping, Sequence

from cascade.grid import Grid
from cascade.stage import Stage

SIDES = ("num_frames", "height", "width")


def grids_of(
    stages: Sequence[Stage],
    *,
    sizes: Mapping[str, int | None],
    seconds: float | None = None,
    fps: float | None = None,
    low: Sequence[int] | None = None,
) -> list[Grid]:
    """Each stage's grid for a final video of these sizes, by default those of the stages' targets.

    Args:
        stages: consecutive stages of a cascade.
        sizes: `num_frames`, `height` and `width` of the last stage's video; None: its default. Of
            one frame the grid is the shortest that the stages can generate, which is cut there.
        seconds: the duration instead of `num_frames`; the nearest that the stages can generate.
        fps: frames per second of the last stage's video.
        low: (frames, height, width) of the video that the stages begin with, which sets the sizes.

    Raises:
        ValueError: a stage cannot run on its grid, or sizes contradict each other.
    """
    scale = [
        math.prod(stage.kind.scale.time for stage in stages),
        *[math.prod(stage.kind.scale.space for stage in stages)] * 2,
    ]
    rate = stages[-1].target.fps if fps is None else fps
    multiple = final_multiple(stages)
    sizes = _with_seconds(sizes, seconds, rate, multiple[0])
    if sizes["num_frames"] == 1:
        sizes = {**sizes, "num_frames": multiple[0]}
    own = _default(stages[0]) if low is None else low
    if low is not None and any(size is not None for size in sizes.values()):
        raise ValueError(
            f"num_frames, height, width: the video that {stages[0].name} begins with sets the "
            "size; leave them out"
        )
    first = [
        _checked(name, one * factor if sizes[name] is None else sizes[name], fits, stages) // factor
        for name, one, factor, fits in zip(SIDES, own, scale, multiple, strict=True)
    ]
    grid = Grid(frames=first[0], height=first[1], width=first[2], fps=rate / scale[0])
    grids = []
    for stage in stages:
        grid = grid.scaled(time=stage.kind.scale.time, space=stage.kind.scale.space)
        stage.check_grid(grid)
        grids.append(grid)
    return grids


def _with_seconds(
    sizes: Mapping[str, int | None], seconds: float | None, fps: float, multiple: int
) -> Mapping[str, int | None]:
    if seconds is None:
        return sizes
    if sizes["num_frames"] is not None:
        raise ValueError(f"seconds={seconds:g} and num_frames={sizes['num_frames']}: give one")
    return {**sizes, "num_frames": max(round(seconds * fps / multiple), 1) * multiple}


def _default(first: Stage) -> Sequence[int]:
    """What the first stage of a call takes at its target."""
    return first.target.divided(time=first.kind.scale.time, space=first.kind.scale.space).shape


def _checked(name: str, size: int | None, multiple: int, stages: Sequence[Stage]) -> int:
    if type(size) is not int or size < 1 or size % multiple:
        nearest = max(round((size or 0) / multiple), 1) * multiple
        raise ValueError(
            f"{name}={size}: must be a positive multiple of {multiple} for the stages "
            f"{', '.join(stage.name for stage in stages)}; the nearest is {nearest}"
        )
    return size


def final_multiple(stages: Sequence[Stage]) -> tuple[int, int, int]:
    """The numbers that frames, height and width of the last stage's video must be multiples of."""
    found = (1, 1, 1)
    for stage in stages:
        scale = stage.kind.scale
        factors = (scale.time, scale.space, scale.space)
        sides = zip(found, factors, stage.multiple, strict=True)
        frames, height, width = (math.lcm(size * factor, own) for size, factor, own in sides)
        found = frames, height, width
    return found
