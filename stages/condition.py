"""What a denoising step is told, and how it stays true to what the user fixed."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from cascade.conditioning import Given, whole_frames
from cascade.diffusion.gaussian import per_frame, to_x
from cascade.diffusion.guidance import Guidance
from cascade.diffusion.process import Diffusion
from cascade.diffusion.sampler import Step
from cascade.grid import Grid
from cascade.text.encoder import TextFeatures


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How many times the frames (`time`) and the height and width (`space`) a stage makes."""

    time: int = 1
    space: int = 1


@dataclass(frozen=True)
class Condition:
    """All that a denoising step is told, besides z and its log-SNR."""

    low: Float[Tensor, "b c f h w"] | None
    given: Given
    text: TextFeatures
    scalars: Float[Tensor, "b k"]

    @property
    def frames(self) -> Bool[Tensor, "b f"]:
        """The frames that the user fixed whole."""
        return whole_frames(self.given.mask)


def take(batch: dict[str, Any], rows: Sequence[int]) -> dict[str, Any]:
    """The batch's samples with these numbers."""
    return {
        name: value[list(rows)] if isinstance(value, Tensor) else [value[i] for i in rows]
        for name, value in batch.items()
    }


def scalars(
    names: Sequence[str],
    grid: Grid,
    fps: Float[Tensor, " b"],
    level: Float[Tensor, " b"] | None,
    zoom: Float[Tensor, " b"] | None = None,
) -> Float[Tensor, "b k"]:
    """The numbers told by adaLN, in the order of `names`, each brought to about unit size."""
    values = {
        "fps": torch.log(fps / 8),
        "zoom": torch.zeros_like(fps) if zoom is None else torch.log(zoom.to(fps)),
        "height": torch.full_like(fps, math.log(grid.height / 64)),
        "width": torch.full_like(fps, math.log(grid.width / 64)),
    }
    if level is not None:
        values["augment"] = level.to(fps) / 8
    return torch.stack([values[name] for name in names], dim=1)


Predict = Callable[[Tensor, Tensor, Condition], Tensor]


@dataclass(frozen=True, kw_only=True)
class Denoiser:
    """x̂ with guidance under one condition: what a sampler walks with.

    Frames that were given whole stay as they are, at the highest log-SNR; the others are noisy.
    """

    predict: Predict
    diffusion: Diffusion
    condition: Condition
    without: TextFeatures
    guidance: Guidance

    def __call__(self, z: Float[Tensor, "b c f h w"], step: Step) -> Float[Tensor, "b c f h w"]:
        """x̂ for noisy `z`."""
        schedule, cond = self.diffusion.schedule, self.condition
        frames = cond.frames
        given = per_frame(frames)
        z = torch.where(given, cond.given.frames, z)
        logsnr = torch.full(frames.shape, step.logsnr, device=z.device)
        logsnr = logsnr.masked_fill(frames, schedule.logsnr_max)
        alpha, sigma = per_frame(schedule.alpha(logsnr)), per_frame(schedule.sigma(logsnr))

        def x_hat(text: TextFeatures) -> Tensor:
            out = self.predict(z, logsnr, replace(cond, text=text)).float()
            return to_x(self.diffusion.target, out, z, alpha, sigma)

        other = x_hat(self.without) if self.guidance.needs_uncond(step) else None
        x = self.guidance(x_hat(cond.text), other, z=z, alpha=alpha, sigma=sigma, step=step)
        return torch.where(given, cond.given.frames, x)
