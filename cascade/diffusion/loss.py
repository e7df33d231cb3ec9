"""Denoising losses: a weight w(λ) times the MSE of ε, whatever the network predicts.

All losses are compared on one scale (Kingma & Gao 2023): the same x̂ costs the same whether the
network said x, ε, v or velocity, because every error is first carried over to ε.
"""

from abc import ABC, abstractmethod
from typing import assert_never

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from cascade.diffusion.gaussian import Target

PerFrame = Float[Tensor, "*n"]


def eps_factor(
    name: Target, alpha: Float[Tensor, "*n"], sigma: Float[Tensor, "*n"]
) -> Float[Tensor, "*n"]:
    """dε/d(pred) at fixed z: the error of ε is this factor times the error of the prediction."""
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
    """A weight w(λ) that multiplies the MSE of ε."""

    @abstractmethod
    def __call__(self, logsnr: PerFrame, alpha: PerFrame, sigma: PerFrame) -> PerFrame:
        """w(λ), never negative."""


class Uniform(Weight):
    """Plain MSE in a named space: w = (d space/dε)².

    `clip` is JiT's: the space's denominator σ is taken to be at least that (0.05), which keeps a
    network that predicts x from an unbounded weight near the data.
    """

    def __init__(self, *, space: Target, clip: float | None = None) -> None:
        if clip is not None and not 0 < clip < 1:
            raise ValueError(f"Uniform: clip is the least denominator σ, in (0, 1), got {clip}")
        self.space: Target = space
        self.clip = clip

    def __call__(self, _logsnr: PerFrame, alpha: PerFrame, sigma: PerFrame) -> PerFrame:
        """1 / (dε/d space)²."""
        clipped = 1.0 if self.clip is None else (sigma / sigma.clamp(min=self.clip)) ** 2
        return clipped / eps_factor(self.space, alpha, sigma) ** 2


class MinSNR(Weight):
    """min(SNR, γ)/SNR on ε, which is min(SNR, γ) on x (Hang et al. 2023)."""

    def __init__(self, *, gamma: float = 5.0) -> None:
        if not gamma > 0:
            raise ValueError(f"MinSNR: gamma must be positive, got {gamma}")
        self.gamma = gamma

    def __call__(self, logsnr: PerFrame, _alpha: PerFrame, _sigma: PerFrame) -> PerFrame:
        """min(1, γ/SNR)."""
        return (self.gamma * torch.exp(-logsnr)).clamp(max=1.0)


class Sigmoid(Weight):
    """sigmoid(bias − λ) on ε (Kingma & Gao 2023; Hoogeboom et al. 2024).

    The larger the picture, the lower the bias, as for the schedule's shift.
    """

    def __init__(self, *, bias: float = 0.0) -> None:
        self.bias = bias

    def __call__(self, logsnr: PerFrame, _alpha: PerFrame, _sigma: PerFrame) -> PerFrame:
        """sigmoid(bias − λ)."""
        return torch.sigmoid(self.bias - logsnr)


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
    """w(λ)·MSE(ε) of each sample, a mean over the frames where `frame_mask` is true.

    A sample with no such frame (all its frames are given) costs 0. Computed in float32 or wider.
    """
    wide = torch.promote_types(pred.dtype, torch.float32)
    mse = (pred.to(wide) - target.to(wide)).square().mean(dim=(1, 3, 4))
    alpha, sigma = (level[:, 0, :, 0, 0].to(wide) for level in (alpha, sigma))
    cost = weight(logsnr, alpha, sigma) * eps_factor(name, alpha, sigma) ** 2 * mse
    carried = frame_mask.sum(dim=1)
    return cost.where(frame_mask, 0.0).sum(dim=1) / carried.clamp(min=1)
