"""A smooth video, which an encoder keeps nearly whole."""

import math

import torch
from torch import Tensor

from cascade.video import (
    to_float,
)


def smooth(frames: int = 9, height: int = 48, width: int = 64) -> Tensor:
    """A video that moves, its hue changing gently, for 4:2:0 keeps a quarter of the colours."""
    t, y, x = torch.meshgrid(
        torch.arange(frames) / frames,
        torch.linspace(0, 1, height),
        torch.linspace(0, 1, width),
        indexing="ij",
    )
    phases = torch.tensor([0.0, 0.3, 0.6])[:, None, None, None]
    return torch.sin(2 * math.pi * (x + 0.7 * y + t) + phases) * 0.9


def psnr(a: Tensor, b: Tensor) -> float:
    """Decibels for pixels in [-1, 1]."""
    return 10 * math.log10(4 / (a - b).square().mean().item())


def as_video(frames: Tensor) -> Tensor:
    return to_float(frames).permute(3, 0, 1, 2)
