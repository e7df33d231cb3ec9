"""Codecs: the space in which a stage diffuses, pixels or a video autoencoder's latents."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn


class Codec(nn.Module, ABC):
    """A map between pixels in [-1, 1] and the latents in which a stage diffuses."""

    channels: int
    #: The (frames, rows, columns) of pixels that one latent position encodes.
    factor: tuple[int, int, int]
    #: Whether latents lie in [-1, 1] as pixels do, so that x̂ may be clipped to that.
    bounded: bool = False
    #: Whether a latent position is encoded from, and decoded to, its own pixels alone.
    cellwise: bool = False

    @property
    def cell(self) -> int:
        """Pixels per latent position."""
        return math.prod(self.factor)

    def shape(self, pixels: Sequence[int]) -> tuple[int, int, int]:
        """The latent (frames, height, width) of a video of (frames, height, width) pixels."""
        frames, height, width = (
            side // factor for side, factor in zip(pixels, self.factor, strict=True)
        )
        return frames, height, width

    def fold(self, mask: Float[Tensor, "b 1 f h w"]) -> Float[Tensor, "b m f2 h2 w2"]:
        """A pixel mask on the latent grid: one channel per pixel of a latent position."""
        t, h, w = self.factor
        return rearrange(mask, "b 1 (f t) (y h) (x w) -> b (t h w) f y x", t=t, h=h, w=w)

    @abstractmethod
    def encode(self, x: Float[Tensor, "b 3 f h w"]) -> Float[Tensor, "b c f2 h2 w2"]:
        """Pixels → latents."""

    @abstractmethod
    def decode(self, z: Float[Tensor, "b c f2 h2 w2"]) -> Float[Tensor, "b 3 f h w"]:
        """Latents → pixels."""


class Pixels(Codec):
    """The identity: the stage diffuses in pixels."""

    channels = 3
    factor = (1, 1, 1)
    bounded = True
    cellwise = True

    def encode(self, x: Float[Tensor, "b 3 f h w"]) -> Float[Tensor, "b 3 f h w"]:
        """The pixels unchanged."""
        return x

    def decode(self, z: Float[Tensor, "b 3 f h w"]) -> Float[Tensor, "b 3 f h w"]:
        """The pixels unchanged."""
        return z
