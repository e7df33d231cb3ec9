"""Frames to a training clip: one window in time and one crop in space, for all its frames.

A clip is first brought to the scale of the stage's full grid, so that it covers it; a stage that
trains on crops then takes its crop from there. Windows begin on the grid's own frames.
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float64, UInt8
from torch import Tensor
from torch.nn import functional as F

from cascade.grid import Grid
from cascade.keyed import uniform


class Clipper:
    """Cuts clips of `crop` (frames, height, width) out of videos brought to the scale of `grid`."""

    def __init__(
        self,
        *,
        grid: Grid,
        crop: Sequence[int] | None,
        align: Sequence[int],
        seed: int,
        random: bool,
    ) -> None:
        self.grid = grid
        self.crop = tuple(crop or grid.shape)
        self.align = tuple(align)
        self.seed = seed
        self.random = random
        self._check()

    def _check(self) -> None:
        if len(self.crop) != 3 or len(self.align) != 3 or min(self.align) < 1:
            raise ValueError(
                f"data: crop and align are (frames, height, width), got {self.crop}, {self.align}"
            )
        for side, size, full, step in zip(
            ("frames", "height", "width"), self.crop, self.grid.shape, self.align, strict=True
        ):
            if not 1 <= size <= full:
                raise ValueError(f"data.crop: {side} {size} is outside 1 to {full} of {self.grid}")
            if size % step:
                raise ValueError(f"data.crop: {side} {size} is not a multiple of {step} in align")

    def start(self, length: int, position: int) -> int:
        """First frame of the window in a video of `length` frames at the grid's frame rate."""
        return self._offset(length - self.crop[0], self.align[0], position, "window")

    def times(self, start: int, frames: int) -> Float64[np.ndarray, " f"]:
        """Seconds of `frames` frames from number `start` on."""
        return np.asarray((start + np.arange(frames)) / self.grid.fps)

    def scaled_size(self, height: int, width: int) -> tuple[int, int]:
        """The smallest size of this aspect ratio that covers the grid."""
        scale = max(self.grid.height / height, self.grid.width / width)
        return (
            max(self.grid.height, round(height * scale)),
            max(self.grid.width, round(width * scale)),
        )

    def scale(self, frames: UInt8[Tensor, "f h w c"]) -> UInt8[Tensor, "c f y x"]:
        """Frames at the grid's scale, antialiased."""
        size = self.scaled_size(*frames.shape[1:3])
        x = frames.permute(0, 3, 1, 2)
        if size != tuple(x.shape[2:]):
            x = F.interpolate(x, size=size, mode="bilinear", antialias=True)
        return x.transpose(0, 1)

    def cut(self, scaled: UInt8[Tensor, "c f y x"], position: int) -> UInt8[Tensor, "c f h w"]:
        """The crop in space: the same rectangle of every frame; at the centre where not random."""
        _, height, width = self.crop
        top = self._offset(scaled.shape[2] - height, self.align[1], position, "top")
        left = self._offset(scaled.shape[3] - width, self.align[2], position, "left")
        return scaled[:, :, top : top + height, left : left + width].contiguous()

    def _offset(self, slack: int, step: int, position: int, purpose: str) -> int:
        """A multiple of `step` up to `slack`: keyed, or else the first in time, middle in space."""
        choices = max(slack, 0) // step + 1
        if self.random:
            return int(uniform(self.seed, position, purpose) * choices) * step
        return 0 if purpose == "window" else (choices - 1) // 2 * step


def clip_bytes(clip: UInt8[Tensor, "..."]) -> int:
    """Bytes of its pixels."""
    return clip.numel() * torch.uint8.itemsize
