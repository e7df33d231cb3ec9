"""Pictures and videos that a user has in memory, as the frames of a file."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Shaped, UInt8
from PIL import Image
from torch import Tensor

from cascade.media.picture import upright
from cascade.media.reason import DecodeError

KINDS = (
    "a path, a PIL image or a list of them, a numpy array (h w 3 or f h w 3; uint8, or float in "
    "[0, 1]) or a torch tensor (3 h w or 3 f h w in [-1, 1], or uint8 h w 3 or f h w 3)"
)


@dataclass(frozen=True, eq=False)
class Frames:
    """A video in memory; it has the frame rate of the grid on which it is read.

    Pixels are bytes, or floats in [-1, 1], which are not rounded.
    """

    pixels: UInt8[Tensor, "f h w 3"] | Float[Tensor, "f h w 3"]

    def __str__(self) -> str:
        count, height, width, _ = self.pixels.shape
        return f"{count} frame{'' if count == 1 else 's'} of {height}×{width} in memory"


Media = str | Path | Frames


def as_media(value: Any, name: str) -> Media:
    """A user's picture or video; `name` is the argument that it was given as.

    A picture may have one channel, (h w), in which bool is black or white.

    Raises:
        ValueError: it is of no kind that is read, has no frames, or has pixels out of range.
    """
    if isinstance(value, str | Path | Frames):
        return value
    if isinstance(value, Image.Image):
        return Frames(_of_image(value, name)[None])
    if isinstance(value, Tensor):
        return Frames(_frames(_of_tensor(value.detach().cpu(), name), name))
    if isinstance(value, np.ndarray):
        return Frames(_frames(_of_array(value, name), name))
    if isinstance(value, Sequence) and all(isinstance(one, Image.Image) for one in value):
        return Frames(_of_images(value, name))
    raise ValueError(f"{name}: must be {KINDS}, got {type(value).__name__}")


def _of_image(image: Image.Image, name: str) -> UInt8[Tensor, "h w 3"]:
    if (count := getattr(image, "n_frames", 1)) > 1 and image.format != "MPO":
        raise ValueError(f"{name}: the PIL image has {count} frames; give a list of images")
    try:
        return torch.from_numpy(np.array(upright(image)))
    except DecodeError as error:
        raise ValueError(f"{name}: {error}") from error


def _of_images(images: Sequence[Image.Image], name: str) -> UInt8[Tensor, "f h w 3"]:
    if not images:
        raise ValueError(f"{name}: must have at least 1 frame, got 0")
    frames = [_of_image(one, name) for one in images]
    for number, frame in enumerate(frames):
        if frame.shape != frames[0].shape:
            raise ValueError(
                f"{name}: all frames must have one size, but frame 0 is {_size(frames[0])} and "
                f"frame {number} is {_size(frame)} (height×width); resize them"
            )
    return torch.stack(frames)


def _of_tensor(value: Tensor, name: str) -> Tensor:
    """Channels last; floats in [-1, 1]."""
    if value.dtype == torch.uint8:
        return value
    if value.dtype == torch.bool:
        return value.byte() * 255
    if not value.is_floating_point():
        raise ValueError(f"{name}: a tensor must be uint8 or float, got {value.dtype}")
    _check_range(value, -1.0, name)
    return value.float().movedim(0, -1) if value.ndim in (3, 4) else value.float()


def _of_array(value: Shaped[np.ndarray, "..."], name: str) -> Tensor:
    """Channels last; floats in [-1, 1]."""
    if value.dtype == np.bool_:
        return torch.from_numpy(value.astype(np.uint8) * 255)
    if value.dtype == np.uint8:
        return torch.from_numpy(np.ascontiguousarray(value))
    if not np.issubdtype(value.dtype, np.floating):
        raise ValueError(f"{name}: an array must be uint8 or float in [0, 1], got {value.dtype}")
    levels = torch.from_numpy(np.ascontiguousarray(value, dtype=np.float32))
    _check_range(levels, 0.0, name)
    return levels * 2 - 1


def _check_range(levels: Tensor, least: float, name: str) -> None:
    if levels.numel() and not ((levels >= least - 1e-3) & (levels <= 1 + 1e-3)).all():
        low, high = levels.min().item(), levels.max().item()
        raise ValueError(
            f"{name}: float pixels must be finite and in [{least:g}, 1], got {low:g} to {high:g}"
        )


def _frames(pixels: Tensor, name: str) -> Tensor:
    """Pixels as (f h w 3); one picture is one frame, and one channel is grey."""
    if pixels.ndim == 2:
        pixels = pixels[..., None].expand(-1, -1, 3)
    if pixels.ndim == 3:
        pixels = pixels[None]
    if pixels.ndim != 4 or pixels.shape[3] != 3:
        raise ValueError(
            f"{name}: must be {KINDS}; with channels last its shape is {tuple(pixels.shape)}"
        )
    if not pixels.numel():
        count, height, width, _ = pixels.shape
        raise ValueError(
            f"{name}: must have at least 1 frame of 1×1, got {count} of {height}×{width}"
        )
    return pixels


def _size(frame: Tensor) -> str:
    return f"{frame.shape[0]}×{frame.shape[1]}"
