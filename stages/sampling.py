"""The denoiser that a sampler calls: a stage's prediction under one condition, with guidance."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from cascade.diffusion.gaussian import per_frame, to_x
from cascade.diffusion.guidance import Guidance
from cascade.diffusion.process import Diffusion
from cascade.diffusion.sampler import Step
from cascade.stage import Condition
from cascade.text.encoder import TextFeatures
from stages.noised import frame_levels, hold_given

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
