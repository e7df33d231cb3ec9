"""Temporal super-resolution: the same pixels, `time` times the frames."""

from typing import ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor

from cascade.video import every, hold, linear
from stages.super_resolution import SuperResolution


@final
class TemporalSR(SuperResolution):
    """Raises the frame rate; conditioned on the stage before with its frames held."""

    scalars: ClassVar[tuple[str, ...]] = ("augment", "fps")

    def check_scale(self) -> None:
        """Temporal super-resolution keeps the pixels."""
        if self.scale.space != 1 or self.scale.time < 2:
            raise ValueError(
                f"{self.name}: temporal super-resolution keeps the pixels and raises the frame "
                f"rate, so space must be 1 and time at least 2, but it has {self.scale}"
            )

    def reduce(self, x: Float[Tensor, "b c f h w"]) -> Float[Tensor, "b c f2 h w"]:
        """Every `time`-th frame of the clip."""
        return every(x, self.scale.time)

    def expand(self, low: Float[Tensor, "b c f2 h w"]) -> Float[Tensor, "b c f h w"]:
        """Frames held until the next one comes (Imagen Video, §2.4)."""
        return hold(low, self.scale.time)

    def plain(self, low: Float[Tensor, "b c f2 h w"]) -> Float[Tensor, "b c f h w"]:
        """Linear interpolation in time: what this stage must beat."""
        return linear(low, self.scale.time)

    def made(self, x: Float[Tensor, "b c f h w"]) -> Float[Tensor, "b c f2 h w"]:
        """The new frames: all but those of the stage before."""
        new = torch.arange(x.shape[2], device=x.device) % self.scale.time != 0
        return x[:, :, new]
