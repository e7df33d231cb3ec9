"""The windows and tiles with which a stage fits into a given memory.

The memory of a forward pass is counted on the meta device. A local network's is linear in frames,
so two counts give that of any window.
"""

from dataclasses import dataclass

import psutil
import torch

from cascade.control_groups import left
from cascade.grid import Grid
from cascade.memory import BLOCK, Meter
from cascade.request import Windows
from cascade.stage import Stage, TrainableStage, receptive_field

GIB = 2**30
#: Videos that the sampler holds beside the network's activations: z, x̂ (twice), `low`, `given`, the
#: baseline and noise, with 3 channels each, and a mask.
HELD = 7


class TooLargeError(ValueError):
    """A stage whose smallest window needs more memory than there is."""


@dataclass(frozen=True)
class Need:
    """The bytes that sampling in windows needs above the stage's weights."""

    windows: Windows
    bytes: int


def windows_for(stage: Stage, grid: Grid, *, videos: int, memory: float) -> Windows:
    """The largest windows with which a stage samples `videos` videos in `memory` bytes.

    Whole videos if they fit. A network that reads all frames is always sampled as a whole: windows
    change its result.

    Raises:
        TooLargeError: not even the smallest windows fit.
    """
    least: Need | None = None
    for windows in _candidates(stage, grid):
        need = Need(windows, videos * bytes_of(stage, grid, windows))
        if need.bytes <= memory:
            return windows
        least = need if least is None or need.bytes < least.bytes else least
    assert least is not None
    local = receptive_field(stage) is not None
    raise TooLargeError(
        f"stage {stage.name}: {videos} video(s) of {grid} need {least.bytes / GIB:.3g} GiB of "
        f"memory above the weights for {least.windows}, but memory is {memory / GIB:.3g} GiB; give "
        f"more memory, fewer videos at once, {'' if local else 'a smaller base_window, '}or a "
        "smaller video"
    )


def bytes_of(stage: Stage, grid: Grid, windows: Windows) -> int:
    """The bytes that one video needs above the stage's weights, in these windows."""
    radius = receptive_field(stage)
    frames = grid.frames if windows.frames is None else min(windows.frames, grid.frames)
    step = stage.multiple[0]
    read = frames
    if radius is not None and frames < grid.frames:
        read = min(frames + 2 * radius[0] * stage.codec.factor[0], grid.frames)
    height, width = grid.height, grid.width
    if windows.tile is not None and radius is not None:
        _, *cells = stage.multiple
        more = [-(-radius[1] * stage.codec.factor[1] // cell) * cell for cell in cells]
        height = min(windows.tile + 2 * more[0], height)
        width = min(windows.tile + 2 * more[1], width)
    activations = _forward(stage, step, height, width)
    if read > step:
        each = (_forward(stage, 2 * step, height, width) - activations) / step
        activations += round(each * (read - step))
    front = min(grid.frames, read + _evaluations(stage) * (read - frames) // 2)
    return activations + HELD * 3 * 4 * front * grid.height * grid.width


def available(device: torch.device) -> int:
    """The bytes that are free on a device."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return min([int(psutil.virtual_memory().available), *left()])


def _candidates(stage: Stage, grid: Grid) -> list[Windows]:
    """Windows from the largest to the smallest."""
    whole = [Windows()]
    radius = receptive_field(stage)
    if radius is None or not stage.codec.cellwise or stage.sampling.guidance.over_video:
        return whole
    step, cell = stage.multiple[0], max(stage.multiple[1:])
    sizes, size = [], grid.frames
    while size > max(radius[0] * stage.codec.factor[0], step):
        size = max(size // 2 // step, 1) * step
        sizes.append(size)
    tiles, side = [], max(grid.height, grid.width)
    while side > max(2 * radius[1], cell):
        side = max(side // 2 // cell, 1) * cell
        tiles.append(side)
    smallest = sizes[-1] if sizes else grid.frames
    return [
        *whole,
        *(Windows(frames=size) for size in sizes),
        *(Windows(frames=smallest, tile=tile) for tile in tiles),
    ]


def _forward(stage: Stage, frames: int, height: int, width: int) -> int:
    """The peak of a forward pass for one clip, without weights."""
    assert isinstance(stage, TrainableStage)
    forward = stage.dry_forward((frames, height, width))
    meter = Meter(block=BLOCK["cpu"])
    with torch.no_grad(), meter:
        forward()
    return sum(meter.peak.values())


def _evaluations(stage: Stage) -> int:
    return 2 * stage.sampling.steps
