"""Denoising losses: a weight times the MSE of ε at the drawn λ, for every prediction target.

All losses are compared on one scale (Kingma & Gao 2023): the same x̂ costs the same whether the
network returned x, ε, v or velocity, because every error is first converted to an error of ε.

There are two kinds of weights. Most multiply the loss at the λ that training draws, so that the
objective also depends on p(λ), the density of the draws. A weight that is `integrated` is the w(λ)
of the objective ½ ∫ w(λ) E‖ε̂ − ε‖² dλ, which does not depend on p(λ). Its estimate from draws
divides by p(λ): ½ E_{λ~p(λ)} [w(λ)/p(λ) E‖ε̂ − ε‖²] (Kingma & Gao 2023, section 3.2). `Diffusion`
knows p(λ) and wraps such a weight in `PerDensity`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar, assert_never

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from cascade.diffusion.gaussian import Target

PerFrame = Float[Tensor, "*n"]


def eps_factor(
    name: Target, alpha: Float[Tensor, "*n"], sigma: Float[Tensor, "*n"]
) -> Float[Tensor, "*n"]:
    """dε/d(pred) at fixed z: the factor from an error of the prediction to the error of ε."""
    match name:
        case "x":
            return -alpha / sigma
        case "eps":
            return torch.ones_like(alpha)
        case "v":
            return alpha / (alpha**2 + sigma**2)
        case "velocity":
            return alpha / (alpha + sigma)
    assert_never(name)


class Weight(ABC):
    """A weight w(λ) of the MSE of ε."""

    #: Whether w(λ) belongs to an integral over λ, so that draws of λ must be divided by p(λ).
    integrated: ClassVar[bool] = False

    @abstractmethod
    def __call__(self, logsnr: PerFrame, alpha: PerFrame, sigma: PerFrame) -> PerFrame:
        """w(λ), never negative."""


class Uniform(Weight):
    """Plain MSE in a named space at the drawn λ: w = (d space/dε)².

    `clip` is the lower bound of σ where the weight divides by it (JiT: 0.05); it bounds the weight
    at low noise for a network that predicts x.
    """

    def __init__(self, *, space: Target, clip: float | None = None) -> None:
        if clip is not None and not 0 < clip < 1:
            raise ValueError(f"Uniform: clip is the lower bound of σ, in (0, 1), got {clip}")
        self.space: Target = space
        self.clip = clip

    def __call__(self, _logsnr: PerFrame, alpha: PerFrame, sigma: PerFrame) -> PerFrame:
        """1 / (dε/d space)²."""
        clipped = 1.0 if self.clip is None else (sigma / sigma.clamp(min=self.clip)) ** 2
        return clipped / eps_factor(self.space, alpha, sigma) ** 2


class MinSNR(Weight):
    """min(SNR, γ)/SNR on ε at the drawn λ, which is min(SNR, γ) on x (Hang et al. 2023)."""

    def __init__(self, *, gamma: float = 5.0) -> None:
        if not gamma > 0:
            raise ValueError(f"MinSNR: gamma must be positive, got {gamma}")
        self.gamma = gamma

    def __call__(self, logsnr: PerFrame, _alpha: PerFrame, _sigma: PerFrame) -> PerFrame:
        """min(1, γ/SNR)."""
        return (self.gamma * torch.exp(-logsnr)).clamp(max=1.0)


class Sigmoid(Weight):
    """w(λ) = sigmoid(bias − λ) of the objective's integral over λ.

    (Kingma & Gao 2023, section 5; Hoogeboom et al. 2024, "Simpler Diffusion".) Larger pictures need
    a lower bias, as for the schedule's shift. The objective is the same for every distribution of
    times, but the variance of its estimate is not: w/p is unbounded where p(λ) decays faster than
    w(λ). Simpler Diffusion draws t uniformly on the cosine schedule.
    """

    integrated: ClassVar[bool] = True

    def __init__(self, *, bias: float = 0.0) -> None:
        self.bias = bias

    def __call__(self, logsnr: PerFrame, _alpha: PerFrame, _sigma: PerFrame) -> PerFrame:
        """sigmoid(bias − λ)."""
        return torch.sigmoid(self.bias - logsnr)


class PerDensity(Weight):
    """w(λ)/p(λ): the factor of the MSE of ε at draws from p(λ), for an `integrated` weight w.

    The factor ½ of the objective is omitted, as in all weights. It is 0 where p is infinite: the
    schedule clips all draws beyond an end of the integral to that end.
    """

    def __init__(self, weight: Weight, density: Callable[[PerFrame], PerFrame]) -> None:
        self.weight = weight
        self.density = density

    def __call__(self, logsnr: PerFrame, alpha: PerFrame, sigma: PerFrame) -> PerFrame:
        """w(λ)/p(λ)."""
        return self.weight(logsnr, alpha, sigma) / self.density(logsnr)


def denoising_loss(
    name: Target,
    pred: Float[Tensor, "b c f h w"],
    target: Float[Tensor, "b c f h w"],
    logsnr: Float[Tensor, "b f"],
    alpha: Float[Tensor, "b 1 f 1 1"],
    sigma: Float[Tensor, "b 1 f 1 1"],
    weight: Weight,
    frame_mask: Bool[Tensor, "b f"],
) -> Float[Tensor, " b"]:
    """The weighted MSE of ε of each sample, as the mean over frames where `frame_mask` is true.

    A sample without such a frame (all its frames are given) has the loss 0. `weight` is
    `Diffusion.weight`, which includes the density of the draws if needed. Computed in float32 or
    wider.
    """
    wide = torch.promote_types(pred.dtype, torch.float32)
    mse = (pred.to(wide) - target.to(wide)).square().mean(dim=(1, 3, 4))
    alpha, sigma = (level[:, 0, :, 0, 0].to(wide) for level in (alpha, sigma))
    cost = weight(logsnr, alpha, sigma) * eps_factor(name, alpha, sigma) ** 2 * mse
    carried = frame_mask.sum(dim=1)
    return cost.where(frame_mask, 0.0).sum(dim=1) / carried.clamp(min=1)
