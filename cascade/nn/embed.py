"""Embeddings of a network's conditions: noise level, scalars, pooled text and positions."""

import functools
import math

import torch
from jaxtyping import Bool, Complex64, Float, Float32
from torch import Tensor, nn
from torch.nn import functional as F

NUM_BANDS = 16
LOGSNR_SCALE = 20.0  # log-SNR is in [-20, 20]; Fourier features need [-1, 1]


def fourier(x: Float[Tensor, "*shape"]) -> Float32[Tensor, "*shape bands"]:
    """Sines and cosines of `x`, about 1 in magnitude, at 16 frequencies f from 1/2 to 16.

    Equation: sin(π f x), cos(π f x), f geometric (Tancik et al. 2020). Always in float32, whatever
    the network's precision, and without a buffer, so that a network can be built on `meta`.
    """
    frequency = math.pi * torch.logspace(-1, 4, NUM_BANDS, base=2, device=x.device)
    angle = x.float().unsqueeze(-1) * frequency
    return torch.cat((angle.sin(), angle.cos()), dim=-1)


def pooled(text: Float[Tensor, "b l d"], mask: Bool[Tensor, "b l"]) -> Float[Tensor, "b d"]:
    """The sum of the n unmasked tokens divided by √n, which keeps a token's scale; 0 if n = 0."""
    weight = mask.unsqueeze(-1).type_as(text)
    return (text * weight).sum(1) / weight.sum(1).clamp(min=1).sqrt()


class ConditionEmbedding(nn.Module):
    """The vector that modulates a network, one per sample and frame, or per `stride` frames.

    The log-SNR per frame (its features averaged over the frames of a patch), the sample's scalars
    and its pooled text each pass a linear layer; their sum passes a two-layer MLP. `timed` adds the
    frame's position in the video: with text and time in one vector, the network learns motion from
    text early. A network that must not know absolute positions leaves it out.
    """

    def __init__(
        self,
        *,
        width: int,
        text_width: int,
        num_scalars: int,
        stride: int = 1,
        timed: bool = False,
    ) -> None:
        super().__init__()
        self.stride = stride
        self.time = nn.Linear(2 * NUM_BANDS, width) if timed else None
        self.noise = nn.Linear(2 * NUM_BANDS, width)
        self.scalars = nn.Linear(2 * NUM_BANDS * num_scalars, width) if num_scalars else None
        self.text = nn.Linear(text_width, width)
        self.hidden = nn.Linear(width, width)

    def forward(
        self,
        logsnr: Float[Tensor, "b f"],
        scalars: Float[Tensor, "b k"],
        pooled: Float[Tensor, "b d"],
    ) -> Float[Tensor, "b frames width"]:
        """The vectors, with the activation applied; a linear layer may follow directly."""
        dtype = self.noise.weight.dtype
        noise = torch.unflatten(fourier(logsnr / LOGSNR_SCALE), 1, (-1, self.stride)).mean(2)
        sample = self.text(pooled.to(dtype))
        if self.scalars is not None:
            sample = sample + self.scalars(fourier(scalars).flatten(1).to(dtype))
        vector = self.noise(noise.to(dtype)) + sample.unsqueeze(1)
        if self.time is not None:
            count = noise.shape[1]
            place = (2 * torch.arange(count, device=noise.device) + 1) / count - 1
            vector = vector + self.time(fourier(place).to(dtype))
        return F.silu(self.hidden(F.silu(vector)))


@functools.lru_cache(maxsize=64)
def position_features(
    frames: int, height: int, width: int, device: torch.device
) -> Float32[Tensor, "f s features"]:
    """Fourier features of every token's position, each axis normalised to [-1, 1]."""
    with torch.inference_mode(False):  # autograd refuses a cached inference tensor
        axes = [(2 * torch.arange(n, device=device) + 1) / n - 1.0 for n in (frames, height, width)]
        place = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)
        return fourier(place).flatten(-2).flatten(1, 2)


@functools.lru_cache(maxsize=64)
def rotary(
    frames: int,
    height: int,
    width: int,
    head_width: int,
    theta: float,
    device: torch.device,
    trained: int | None = None,
) -> Complex64[Tensor, "n 1 pairs"]:
    """Factorised 3-D rotary positions: unit complex numbers that rotate each pair of channels.

    Of every 128 channels of a head, 16 encode the frame, 56 the row and 56 the column, counted in
    patches (HunyuanVideo). θ = 100 suits axes of tens of patches (Heo et al. 2024). Frames of any
    number lie at equal distances over the range of `trained` frames (position interpolation, Chen
    et al. 2023).
    """
    pairs = head_width // 2
    spatial = 7 * pairs // 16
    counts = (pairs - 2 * spatial, spatial, spatial)
    with torch.inference_mode(False):
        axes = [torch.arange(n, device=device).float() for n in (frames, height, width)]
        if trained is not None:
            axes[0] = (axes[0] + 0.5) * trained / frames - 0.5
        angle = torch.cat(
            [
                p.reshape(-1, 1) * theta ** -(torch.arange(k, device=device) / max(k, 1))
                for p, k in zip(torch.meshgrid(*axes, indexing="ij"), counts, strict=True)
            ],
            dim=-1,
        )
        return torch.polar(torch.ones_like(angle), angle).unsqueeze(1)


def rotate(
    x: Float[Tensor, "b n h d"], rotations: Complex64[Tensor, "n 1 pairs"]
) -> Float[Tensor, "b n h d"]:
    """Rotary embedding: each pair of channels is a complex number, rotated by the token's position.

    One complex product takes a third of the time of sines and cosines on separate halves. Compiled
    code uses the real form, which torch.compile fuses into one kernel; it has no complex numbers.
    """
    if torch.compiler.is_compiling():
        cos, sin = torch.view_as_real(rotations).unbind(-1)
        one, other = torch.unflatten(x.float(), -1, (-1, 2)).unbind(-1)
        rotated = (one * cos - other * sin, one * sin + other * cos)
        return torch.stack(rotated, dim=-1).flatten(-2).type_as(x)
    pairs = torch.view_as_complex(torch.unflatten(x.float(), -1, (-1, 2)))
    return torch.view_as_real(pairs * rotations).flatten(-2).type_as(x)
