"""Motion near a given last frame: `python tests/measure/last_frame.py runs/demo/tsr1/…/bundle`.

For moving clips of the world of shapes it prints how far the object moves between the last two
frames of the video, in pixels: in the clip itself, as a trained temporal stage makes it where the
last frame stands at a time of the base and the video ends there, and by the old rule, where the
last frame closed the grid and the previous stage had it at an earlier time.
"""

import argparse
import statistics
import sys
from pathlib import Path

import torch
from torch import Tensor

from cascade import conditioning
from cascade.bundle import load_stage
from cascade.video import to_float
from data.worlds.shapes import heldout_prompts, prompt
from data.worlds.truth import shapes_truth


def centres(video: Tensor) -> Tensor:
    """The object's centre in each frame, (b, f, 2), weighted by its distance from the ground."""
    ground = video[..., :1, :1]
    weight = (video - ground).abs().sum(1)
    weight = weight.where(weight > 0.3, 0.0)
    rows, columns = (torch.arange(n, dtype=torch.float32) for n in video.shape[3:])
    total = weight.sum((2, 3)).clamp(min=1e-6)
    y = (weight * rows[:, None]).sum((2, 3)) / total
    x = (weight * columns).sum((2, 3)) / total
    return torch.stack([y, x], dim=2)


def step(video: Tensor, frame: int) -> Tensor:
    """Pixels that the object moves from frame - 1 to frame, per clip."""
    where = centres(video[:, :, frame - 1 : frame + 1])
    return (where[:, 1] - where[:, 0]).norm(dim=1)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--clips", type=int, default=64)
    chosen = parser.parse_args()
    stage = load_stage(chosen.bundle)
    grid, factor = stage.target, stage.kind.scale.time
    moving = [(t, a) for t, a in heldout_prompts(4 * chosen.clips) if a.direction != "still"]
    moving = moving[: chosen.clips]
    clips = [shapes_truth(a, grid, position) for position, (_, a) in enumerate(moving)]
    x = to_float(torch.stack(clips))
    captions = [prompt(a, 0) for _, a in moving]
    first, last = x[:, :, :1], grid.frames - factor

    def made(low: Tensor, given: conditioning.Given) -> Tensor:
        seeds = list(range(len(captions)))
        return stage.sample(captions, grid=grid, seeds=seeds, low=low, given=given)

    low = stage.kind.reduce(x)
    own = conditioning.first_last(first, x[:, :, last : last + 1], grid.frames, stride=factor)
    late = low.clone()
    late[:, :, -1] = x[:, :, -1]  # the previous stage had the last frame at its own last time
    closing = conditioning.fill_in(
        torch.cat([first, x[:, :, -1:]], dim=2), [0, grid.frames - 1], grid.frames
    )
    rows = {
        "the clip itself": step(x, last),
        "last frame at a time of the base": step(made(low, own), last),
        "last frame closes the grid (old rule)": step(made(late, closing), grid.frames - 1),
    }
    for name, steps in rows.items():
        spread = statistics.quantiles(steps.tolist(), n=4)
        sys.stdout.write(
            f"{name:40s} {steps.median():.2f} px (quartiles {spread[0]:.2f}–{spread[2]:.2f}), "
            f"{len(steps)} moving clips\n"
        )


if __name__ == "__main__":
    main()
