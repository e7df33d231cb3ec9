"""Noise-conditioning augmentation: noise on the low-resolution input of a super-resolution stage.

In training the level is random, and the network is conditioned on it; at sampling it is fixed. So
the stage learns to correct errors of the previous one (Ho et al. 2021; Imagen Video, section 2.5).
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from cascade.diffusion.gaussian import diffuse, per_frame
from cascade.diffusion.schedule import Schedule


class NoiseAugment:
    """Noise on the low-resolution video, one level per sample.

    `min_t` and `max_t` bound the training levels in the schedule's time (0 clean, 1 noise);
    `snr` = α²/σ² is the level at sampling (Imagen Video takes 3 or 5).
    """

    def __init__(
        self, *, schedule: Schedule, min_t: float = 0.0, max_t: float = 1.0, snr: float = 3.0
    ) -> None:
        if not 0 <= min_t <= max_t <= 1:
            raise ValueError(
                f"NoiseAugment: 0 <= min_t <= max_t <= 1 must hold, got {min_t} and {max_t}"
            )
        if not snr > 0:
            raise ValueError(f"NoiseAugment: snr must be positive, got {snr}")
        self.schedule = schedule
        self.min_t = min_t
        self.max_t = max_t
        self.snr = snr

    def level(self, u: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """Training log-SNR for u in (0, 1): t uniform in [min_t, max_t]."""
        return self.schedule.logsnr(self.min_t + (self.max_t - self.min_t) * u)

    def sampling_level(
        self, batch: int, *, snr: float | None = None, device: torch.device | str = "cpu"
    ) -> Float[Tensor, " b"]:
        """The fixed log-SNR of sampling, from `snr` or by default from the stage's own."""
        snr = self.snr if snr is None else snr
        if not snr > 0:
            raise ValueError(f"NoiseAugment: snr must be positive, got {snr}")
        logsnr = min(max(math.log(snr), self.schedule.logsnr_min), self.schedule.logsnr_max)
        return torch.full((batch,), logsnr, device=device)

    def __call__(
        self,
        low: Float[Tensor, "b c f h w"],
        logsnr: Float[Tensor, " b"],
        eps: Float[Tensor, "b c f h w"],
    ) -> Float[Tensor, "b c f h w"]:
        """α low + σ ε, with each sample's level."""
        level = logsnr[:, None]
        alpha, sigma = self.schedule.alpha(level), self.schedule.sigma(level)
        return diffuse(low, eps, per_frame(alpha).to(low.dtype), per_frame(sigma).to(low.dtype))
