"""Which frames each stage is given, and how early: `python tests/measure/given_times.py`.

For each way to prompt and each stage of a cascade it prints the frames of the new video (numbered
on the last stage's grid) that the stage is given. `+7` means that a frame is placed 7 frames before
its own time. "Before" is the old rule: a stage was given the first given frame within each interval
between its frames, and frames that closed a video ended with the grid.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from itertools import groupby, pairwise

import torch
from hydra import compose, initialize_config_dir
from torch import Tensor

from cascade import conditioning
from cascade.conditioning import Given, to_grid
from cascade.entry import CONF
from cascade.grid import Grid

Shown = list[tuple[int, int]]
"""(placed time, true time) of each given frame of a stage, in frames of the last grid."""


def grids(cascade: str) -> dict[str, Grid]:
    """Each stage's grid with frames of one pixel, since only times matter."""
    found: dict[str, Grid] = {}
    with initialize_config_dir(version_base="1.3", config_dir=CONF):
        for name in compose("sample", ["prompt=a", f"cascade={cascade}"]).cascade.stages:
            target = compose("train", [f"stage={cascade}/{name}"]).stage.target
            found[name] = Grid(frames=target.frames, height=1, width=1, fps=target.fps)
    return found


def clock(times: Sequence[int]) -> Tensor:
    """Frames of one pixel whose values are their times."""
    return torch.tensor(times, dtype=torch.float32).view(1, 1, -1, 1, 1)


def placed(frames: int, stride: int) -> Iterator[tuple[str, Given]]:
    """The given frames of each way; half the video where the length is free."""
    one, half, quarter = clock([0]), clock(range(frames // 2)), max(frames // 4, 1)
    odd = sorted({0, frames // 3, 2 * frames // 3, frames - 1})
    yield "image", conditioning.image(one, frames)
    yield "first_last", conditioning.first_last(one, one, frames, stride=stride)
    yield "extend_forward", conditioning.extend_forward(half, frames)
    yield "extend_backward", conditioning.extend_backward(half[:, :, 1:], frames, stride=stride)
    yield "extend_backward (last)", conditioning.extend_backward(one, frames, stride=stride)
    yield "fill_in", conditioning.fill_in(clock(odd), odd, frames)
    yield "loop", conditioning.loop(half, frames, quarter, stride=stride)
    yield "connect", conditioning.connect(half, half, frames, max(quarter - 1, 1), stride=stride)
    yield "region", conditioning.region(clock(range(frames)), clock([1] * frames))


def first_in_interval(given: Given, grid: Grid) -> Given:
    """Given frames resampled by the old rule."""
    factor = given.frames.shape[2] // grid.frames
    known = given.mask.flatten(3).amax((1, 3)).view(-1, grid.frames, factor) > 0
    first = known.float().argmax(2) + factor * torch.arange(grid.frames)
    index = first[:, None, :, None, None]
    return Given(given.frames.gather(2, index), given.mask.gather(2, index))


def shown(given: Given, frames: int) -> Shown:
    """The given frames of a stage, read from values that are times."""
    factor = frames // given.mask.shape[2]
    places = given.mask[0, 0, :, 0, 0].nonzero().flatten().tolist()
    return [(place * factor, round(float(given.frames[0, 0, place, 0, 0]))) for place in places]


def spelled(times: Shown) -> str:
    """Runs of equally spaced frames with the same offset, as first…last/step(+offset)."""
    step = min((b[0] - a[0] for a, b in pairwise(times)), default=1)
    parts = []
    runs = groupby(enumerate(times), key=lambda one: (one[1][0] - step * one[0], late(one[1])))
    for (_, behind), run in runs:
        given = [time for _, (_, time) in run]
        spans = [f"{given[0]}…{given[-1]}/{step}"] if len(given) > 2 else [f"{t}" for t in given]
        parts += [f"{span}(+{behind})" if behind else span for span in spans]
    return " ".join(parts) or "nothing"


def late(one: tuple[int, int]) -> int:
    """By how many frames a given frame is placed before its time."""
    return one[1] - one[0]


def table(cascade: str) -> Iterator[str]:
    """A line for each way and stage, and the largest offset."""
    stages = grids(cascade)
    lengths = [grid.frames for grid in stages.values()]
    frames, stride = lengths[-1], lengths[-1] // lengths[0]
    yield f"\n{cascade}: {frames} frames, of which the base generates every {stride}-th"
    yield f"{'way':<23}{'stage':<6}{'before':<44}after"
    numbers, worst = clock(range(frames)), [0, 0]
    for (way, old), (_, new) in zip(placed(frames, 1), placed(frames, stride), strict=True):
        ends = f"  (ends after {new.end - 1})" if new.end is not None else ""
        for name, grid in stages.items():
            was = first_in_interval(Given(numbers * old.mask, old.mask), grid)
            now = to_grid(Given(numbers * new.mask, new.mask), grid, torch.device("cpu"))
            both = [shown(one, frames) for one in (was, now)]
            worst = [max(a, *map(late, times), 0) for a, times in zip(worst, both, strict=True)]
            before, after = map(spelled, both)
            yield f"{way:<23}{name:<6}{before:<44}{after}{ends}"
    yield f"largest offset: {worst[0]} frames before, {worst[1]} after"


def main() -> None:
    """The tables of the cascades named."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cascades", nargs="*", default=["demo", "imagen_video"])
    for cascade in parser.parse_args().cascades:
        sys.stdout.writelines(f"{line}\n" for line in table(cascade))


if __name__ == "__main__":
    main()
