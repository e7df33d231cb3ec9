"""Spatial super-resolution: the same frames, `space` times the height and width."""

from typing import ClassVar, final

from jaxtyping import Float
from torch import Tensor

from cascade.video import bicubic, downsample, upsample
from stages.super_resolution import SuperResolution


@final
class SpatialSR(SuperResolution):
    """Raises height and width; conditioned on the stage before by bilinear interpolation."""

    scalars: ClassVar[tuple[str, ...]] = ("augment", "fps")

    def check_scale(self) -> None:
        """Spatial super-resolution keeps the frames."""
        if self.scale.time != 1 or self.scale.space < 2:
            raise ValueError(
                f"{self.name}: spatial super-resolution keeps the frames and raises the size, "
                f"so time must be 1 and space at least 2, but it has {self.scale}"
            )

    def reduce(self, x: Float[Tensor, "b c f h w"]) -> Float[Tensor, "b c f h2 w2"]:
        """The clip, antialiased, at 1/space of its size."""
        return downsample(x, self.scale.space)

    def expand(self, low: Float[Tensor, "b c f h2 w2"]) -> Float[Tensor, "b c f h w"]:
        """Bilinear interpolation (Imagen Video, §2.4)."""
        return upsample(low, self.scale.space)

    def plain(self, low: Float[Tensor, "b c f h2 w2"]) -> Float[Tensor, "b c f h w"]:
        """Bicubic interpolation: what this stage must beat."""
        return bicubic(low, low.shape[3] * self.scale.space, low.shape[4] * self.scale.space)

    def made(self, x: Float[Tensor, "b c f h w"]) -> Float[Tensor, "b c f h w"]:
        """Every frame is this stage's own."""
        return x
