"""Spatial super-resolution: the same frames, `factor` times the height and width."""

from typing import final

from jaxtyping import Float
from torch import Tensor

from cascade.grid import Scale
from cascade.video import bicubic, downsample, upsample


@final
class SpatialSR:
    """Raises height and width; conditioned on the previous stage by bilinear interpolation."""

    scalars: tuple[str, ...] = ("augment", "fps")
    takes_low: bool = True
    reach: int = 0

    def __init__(self, *, factor: int) -> None:
        if factor < 2:
            raise ValueError(
                f"SpatialSR: factor multiplies height and width and must be at least 2, "
                f"got {factor}"
            )
        self.scale = Scale(space=factor)

    def reduce(self, x: Float[Tensor, "b c f h w"]) -> Float[Tensor, "b c f h2 w2"]:
        """The clip, antialiased, at 1/factor of its height and width."""
        return downsample(x, self.scale.space)

    def expand(self, low: Float[Tensor, "b c f h2 w2"]) -> Float[Tensor, "b c f h w"]:
        """Bilinear interpolation (Imagen Video, §2.4)."""
        return upsample(low, self.scale.space)

    def baseline(self, low: Float[Tensor, "b c f h2 w2"]) -> Float[Tensor, "b c f h w"]:
        """Bicubic interpolation: the baseline this stage must beat."""
        return bicubic(low, low.shape[3] * self.scale.space, low.shape[4] * self.scale.space)

    def new_frames(self, x: Float[Tensor, "b c f h w"]) -> Float[Tensor, "b c f h w"]:
        """All frames."""
        return x
