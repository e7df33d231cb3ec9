"""The frames and regions that the user gives, on the last stage's grid and on earlier grids."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from cascade.grid import Grid
from cascade.video import every, resize

Clip = Float[Tensor, "b c f h w"]


@dataclass(frozen=True)
class Given:
    """Given frames and regions: `mask` is 1 at given pixels, whose values are in `frames`.

    Elsewhere both are 0. If `end` is not None, the video has only its first `end` frames: given
    frames that close a video begin at a time of the base, and may end before the grid does.
    """

    frames: Float[Tensor, "b c f h w"]
    mask: Float[Tensor, "b 1 f h w"]
    end: int | None = None

    def check(self, shape: Sequence[int]) -> None:
        """Check that they fit videos of `shape`, (b, c, f, h, w).

        Raises:
            ValueError: another shape, a mask value other than 0 and 1, a pixel outside [-1, 1].
        """
        batch, _, *grid = shape
        if tuple(self.frames.shape) != tuple(shape) or tuple(self.mask.shape) != (batch, 1, *grid):
            raise ValueError(
                f"given frames must be on the last stage's grid: frames {tuple(shape)} and mask "
                f"{(batch, 1, *grid)}, got {tuple(self.frames.shape)} and {tuple(self.mask.shape)}"
            )
        if not ((self.mask == 0) | (self.mask == 1)).all():
            raise ValueError("given frames: the mask must be 0 or 1 everywhere")
        inside = torch.where(self.mask > 0, self.frames, 0.0)
        if not (inside.abs() <= 1 + 1e-3).all():
            raise ValueError("given frames: pixels must be finite and in [-1, 1]")

    def at(self, frames: Sequence[int], device: torch.device) -> "Given":
        """The given frames and regions of these frames of the video."""
        places = list(frames)
        return Given(self.frames[:, :, places].to(device), self.mask[:, :, places].to(device))

    def paste(self, x: Clip) -> Clip:
        """`x` with its given pixels replaced by the given values."""
        return torch.where(self.mask > 0, self.frames, x)


def to_grid(given: Given, grid: Grid, device: torch.device) -> Given:
    """Given frames of the last stage's grid, resampled to the grid of an earlier stage.

    Frame j of a stage is frame j·k of the last grid, in training as in sampling, so a stage is
    given the frames at its own times and no others. Frames are resized with antialiasing; a pixel
    of the smaller grid is given only where the region covers all of it.
    """
    factor = given.frames.shape[2] // grid.frames
    mask = every(given.mask, factor).to(device)
    frames = torch.where(mask > 0, every(given.frames, factor).to(device), 0.0)
    if frames.shape[3:] != (grid.height, grid.width):
        frames = resize(frames, grid.height, grid.width)
        mask = (resize(mask, grid.height, grid.width) > 1 - 1e-3).to(frames)
        frames = frames * mask
    return Given(frames, mask)


def unseen(given: Given, frames: int) -> list[int]:
    """Given frames of which a stage of `frames` frames receives nothing.

    Neither they nor the nearest earlier frame at one of the stage's own times is given to it.
    """
    any_given = given.mask.amax(dim=(0, 1, 3, 4)) > 0
    factor = len(any_given) // frames
    own = any_given[::factor].repeat_interleave(factor)
    return (any_given & ~own).nonzero().flatten().tolist()
