"""Resampling between grids, antialiased in space, by integer factors in time; bytes and floats."""

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional as F

from cascade.grid import Grid

Video = Float[Tensor, "b c f h w"]
Resized = Float[Tensor, "b c f h2 w2"]
Retimed = Float[Tensor, "b c f2 h w"]


def resize(x: Video, height: int, width: int) -> Resized:
    """Antialiased bilinear resampling of each frame."""
    return _resample(x, height, width, "bilinear")


def covering(height: int, width: int, cover: tuple[int, int], zoom: float = 1) -> tuple[int, int]:
    """The smallest size of this aspect ratio that covers `cover` × `zoom`."""
    scale = zoom * max(cover[0] / height, cover[1] / width)
    return max(cover[0], round(height * scale)), max(cover[1], round(width * scale))


def scale_frames(
    frames: UInt8[Tensor, "f h w c"] | Float[Tensor, "f h w c"], size: tuple[int, int]
) -> UInt8[Tensor, "c f y x"] | Float[Tensor, "c f y x"]:
    """Decoded frames resized to (height, width) with antialiasing, for training and for prompts."""
    x = frames.permute(0, 3, 1, 2)
    if size != tuple(x.shape[2:]):
        x = F.interpolate(x, size=size, mode="bilinear", antialias=True)
    return x.transpose(0, 1)


def bicubic(x: Video, height: int, width: int) -> Resized:
    """Antialiased bicubic resampling of each frame, clamped to [-1, 1]: the baseline of SSR."""
    return _resample(x, height, width, "bicubic").clamp(-1, 1)


def downsample(x: Video, factor: int) -> Resized:
    """Height and width divided by `factor`.

    Raises:
        ValueError: a side is not a multiple of the factor.
    """
    height, width = x.shape[-2:]
    if height % factor or width % factor:
        raise ValueError(
            f"downsample: height and width must be multiples of the factor {factor}, "
            f"got {height}×{width}; crop the clip first"
        )
    return resize(x, height // factor, width // factor)


def upsample(x: Video, factor: int) -> Resized:
    """Height and width times `factor`."""
    return resize(x, x.shape[-2] * factor, x.shape[-1] * factor)


def _resample(x: Tensor, height: int, width: int, mode: str) -> Tensor:
    if x.shape[-2:] == (height, width):
        return x
    frames = x.transpose(1, 2)
    made = F.interpolate(
        frames.flatten(0, 1), (height, width), mode=mode, antialias=True, align_corners=False
    )
    return made.view(*frames.shape[:3], height, width).transpose(1, 2)


def every(x: Video, factor: int) -> Retimed:
    """Frames 0, k, 2k and so on, where k is the factor."""
    return x[:, :, ::factor]


def hold(x: Video, factor: int) -> Retimed:
    """Each frame repeated k times."""
    return x.repeat_interleave(factor, dim=2)


def linear(x: Video, factor: int) -> Retimed:
    """Linear interpolation between frames, with the last one repeated: the baseline of TSR.

    Frame k·i of the result is frame i of `x`.
    """
    after = torch.cat([x[:, :, 1:], x[:, :, -1:]], dim=2)
    steps = [torch.lerp(x, after, i / factor) for i in range(factor)]
    return torch.stack(steps, dim=3).flatten(2, 3)


def frame_times(grid: Grid) -> Float[Tensor, " f"]:
    """Seconds at which each frame of the grid begins, in float64."""
    return torch.arange(grid.frames, dtype=torch.float64) / grid.fps


def to_uint8(x: Float[Tensor, "*n"]) -> UInt8[Tensor, "*n"]:
    """Floats in [-1, 1] to bytes 0…255, rounded."""
    return ((x.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def to_float(x: UInt8[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """Bytes 0…255 to float32 in [-1, 1]."""
    return x / 127.5 - 1
