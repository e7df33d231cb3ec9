"""Temporal super-resolution: the same pixels, `factor` times the frames."""

from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from cascade.grid import Scale
from cascade.video import every, hold, linear


@final
class TemporalSR:
    """Raises the frame rate; conditioned on the previous stage with its frames repeated."""

    scalars: tuple[str, ...] = ("augment", "fps")
    takes_low: bool = True
    reach: int = 1

    def __init__(self, *, factor: int) -> None:
        if factor < 2:
            raise ValueError(
                f"TemporalSR: factor multiplies the frame rate and must be at least 2, got {factor}"
            )
        self.scale = Scale(time=factor)

    def reduce(self, x: Float[Tensor, "b c f h w"]) -> Float[Tensor, "b c f2 h w"]:
        """Every `factor`-th frame of the clip."""
        return every(x, self.scale.time)

    def expand(self, low: Float[Tensor, "b c f2 h w"]) -> Float[Tensor, "b c f h w"]:
        """Each frame repeated `factor` times (Imagen Video, §2.4)."""
        return hold(low, self.scale.time)

    def baseline(self, low: Float[Tensor, "b c f2 h w"]) -> Float[Tensor, "b c f h w"]:
        """Linear interpolation in time: the baseline this stage must beat."""
        return linear(low, self.scale.time)

    def new_frames(self, x: Float[Tensor, "b c f h w"]) -> Float[Tensor, "b c f2 h w"]:
        """The frames that the previous stage does not have."""
        new = torch.arange(x.shape[2], device=x.device) % self.scale.time != 0
        return x[:, :, new]
