"""Figures of a super-resolution stage on validation clips, beside the baseline it must beat.

It starts from the true low resolution, and from what the stage before makes of the clip; without a
stage before, from the true low resolution noised at the level of sampling.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from cascade.eval.fidelity import psnr, ssim
from cascade.grid import Grid
from cascade.stage import Batch, Stage, TrainableStage


@torch.no_grad()
def measure(
    stage: TrainableStage, batch: Batch, *, before: Stage | None, steps: int
) -> dict[str, Float[Tensor, " b"]]:
    """PSNR and SSIM per clip, of the stage and of the baseline; none for a base."""
    x = stage.clip(batch["video"])
    true = stage.kind.reduce(x)
    if true is None or stage.augment is None:
        return {}
    captions, seeds = batch["caption"], batch["position"].tolist()
    made = true if before is None else regenerate(before, true, captions, seeds=seeds, steps=steps)
    inputs = {"true": (true, stage.augment.schedule.logsnr_max), "made": (made, None)}
    grid = grid_of(x, stage.target.fps)
    figures = {}
    for name, (low, level) in inputs.items():
        video = stage.sample(
            captions,
            grid=grid,
            seeds=seeds,
            low=low,
            steps=steps,
            low_logsnr=level,
            guidance_scale=1.0,
        )
        own, plain, wanted = (
            stage.kind.new_frames(v) for v in (video, stage.kind.baseline(low), x)
        )
        figures[f"{name}/psnr"], figures[f"{name}/plain_psnr"] = (
            psnr(own, wanted),
            psnr(plain, wanted),
        )
        figures[f"{name}/ssim"], figures[f"{name}/plain_ssim"] = (
            ssim(own, wanted),
            ssim(plain, wanted),
        )
    return figures


def regenerate(
    stage: Stage,
    x: Float[Tensor, "b 3 f h w"],
    captions: list[str],
    *,
    seeds: list[int],
    start: float = 0.5,
    steps: int | None = None,
) -> Float[Tensor, "b 3 f h w"]:
    """A stage's own version of real clips `x`: the input that a later stage will meet.

    A base starts from the clip noised to time `start` (SDEdit), a super-resolution stage from the
    clip reduced.
    """
    low = stage.kind.reduce(x)
    return stage.sample(
        captions,
        grid=grid_of(x, stage.target.fps),
        seeds=seeds,
        low=low,
        start=(x, start) if low is None else None,
        steps=steps,
    )


def grid_of(x: Float[Tensor, "b c f h w"], fps: float) -> Grid:
    """The grid of a video in pixels."""
    _, _, frames, height, width = x.shape
    return Grid(frames=frames, height=height, width=width, fps=fps)
