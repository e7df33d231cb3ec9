"""The denoiser that a sampler calls, and what a walk starts from: noise, a noised video, `low`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from cascade import keyed
from cascade.diffusion.gaussian import per_frame, to_x
from cascade.diffusion.guidance import Guidance
from cascade.diffusion.process import Diffusion
from cascade.diffusion.sampler import Step, levels
from cascade.grid import Grid
from cascade.stage import Condition, Noise, Stage
from cascade.text.encoder import TextFeatures
from stages.noised import at_level, frame_levels, hold_given

Predict = Callable[[Tensor, Tensor, Condition], Tensor]


@dataclass(frozen=True, kw_only=True)
class Denoiser:
    """x̂ with guidance under one condition, as a function of z and the sampler's step.

    Fully given frames stay clean in z, at the highest log-SNR, as in training.
    """

    predict: Predict
    diffusion: Diffusion
    condition: Condition
    without: TextFeatures
    guidance: Guidance
    free: Bool[Tensor, "b 1 f h w"] | None = None
    """The positions that are not given; None if no position is given."""

    def __call__(self, z: Float[Tensor, "b c f h w"], step: Step) -> Float[Tensor, "b c f h w"]:
        """x̂ for noisy `z`."""
        schedule, cond = self.diffusion.schedule, self.condition
        z = hold_given(z, cond)
        level = torch.full((len(z),), step.logsnr, device=z.device)
        logsnr = frame_levels(level, cond, schedule)
        alpha, sigma = per_frame(schedule.alpha(logsnr)), per_frame(schedule.sigma(logsnr))

        def x_hat(text: TextFeatures) -> Tensor:
            out = self.predict(z, logsnr, replace(cond, text=text)).float()
            return to_x(self.diffusion.target, out, z, alpha, sigma)

        other = x_hat(self.without) if self.guidance.needs_uncond(step) else None
        x = self.guidance(
            x_hat(cond.text), other, z=z, alpha=alpha, sigma=sigma, step=step, free=self.free
        )
        return hold_given(x, cond)


def keyed_noise(name: str, seeds: Sequence[int], device: torch.device) -> Noise:
    """Noise keyed by each video's seed, the stage `name`, a purpose and the absolute frame."""

    def noise(purpose: str, shape: Sequence[int]) -> Tensor:
        channels, frames, height, width = shape
        return keyed.video_noise(
            0,
            seeds,
            f"{name}/{purpose}",
            frames=range(frames),
            frame_shape=(channels, height, width),
            device=device,
        )

    return noise


def noised_to(
    x: Float[Tensor, "b c f h w"], eps: Float[Tensor, "b c f h w"], t: float, denoise: Denoiser
) -> Float[Tensor, "b c f h w"]:
    """Latents `x` noised to diffusion time `t`, where a sampler starts that changes a video."""
    schedule = denoise.diffusion.schedule
    logsnr = torch.full((len(x),), levels(schedule, 1, t)[0].step.logsnr, device=x.device)
    return at_level(x, eps, logsnr, denoise.condition, schedule)[0]


def low_of(
    stage: Stage,
    low: Float[Tensor, "b 3 f2 h2 w2"] | None,
    grid: Grid,
    count: int,
    low_logsnr: float | None,
) -> tuple[Float[Tensor, "b 3 f2 h2 w2"] | None, Float[Tensor, " b"] | None]:
    """`low` on the stage's device, and its noise level.

    Raises:
        ValueError: it is missing, not taken by this stage, or on another grid.
    """
    if (low is None) == stage.kind.takes_low:
        wants = "needs" if low is None else "takes no"
        raise ValueError(f"stage {stage.name} {wants} video of a previous stage (low)")
    if low is None or stage.augment is None:
        return None, None
    source = grid.divided(time=stage.kind.scale.time, space=stage.kind.scale.space)
    if tuple(low.shape[2:]) != source.shape:
        raise ValueError(
            f"stage {stage.name}: for {grid} the previous stage must give "
            f"{source.shape}, got {tuple(low.shape[2:])}"
        )
    level = stage.augment.sampling_level(count, device=stage.device)
    if low_logsnr is not None:
        level = torch.full_like(level, low_logsnr)
    return low.to(stage.device), level
