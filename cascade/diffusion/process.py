"""A stage's diffusion: its schedule, how time is drawn, what the network predicts, the weight."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from cascade.diffusion.gaussian import Target
from cascade.diffusion.guidance import Guidance
from cascade.diffusion.loss import PerDensity, Weight
from cascade.diffusion.sampler import Sampler
from cascade.diffusion.schedule import Schedule, TimeDistribution


class Diffusion:
    """The four choices that define a diffusion, independent of network and sampler (EDM, §2).

    `weight` is the factor of the MSE of ε at a drawn λ: w(λ), or w(λ)/p(λ) for a weight of an
    integral over λ.
    """

    def __init__(
        self,
        *,
        schedule: Schedule,
        times: TimeDistribution,
        target: Target,
        weight: Weight,
    ) -> None:
        self.schedule = schedule
        self.times = times
        self.target = target
        self.weight = PerDensity(weight, self.density) if weight.integrated else weight

    def logsnr(self, u: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """Log-SNR of training samples from uniform numbers `u` in (0, 1)."""
        return self.schedule.logsnr(self.times(u))

    def density(self, logsnr: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        """p(λ) = p(t) |dt/dλ|, the density of λ in training; infinite at the schedule's ends.

        p(t) is computed in float64, because near t = 1 float32 has few digits of 1 − t.
        """
        speed = self.schedule.speed(logsnr)
        t = self.schedule.time(logsnr.to(torch.float64))
        density = self.times.density(t).to(logsnr.dtype) * speed
        return density.masked_fill(speed.isinf(), math.inf)


class Sampling:
    """The sampler, steps and guidance of a stage, unless the caller sets others."""

    def __init__(self, *, sampler: Sampler, steps: int, guidance: Guidance) -> None:
        if steps < 1:
            raise ValueError(f"sampling: steps must be at least 1, got {steps}")
        self.sampler = sampler
        self.steps = steps
        self.guidance = guidance
