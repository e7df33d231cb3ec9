"""Where a stage diffuses: in pixels, or in the latents of a trained video autoencoder."""

from abc import ABC, abstractmethod

from jaxtyping import Float
from torch import Tensor, nn


class Codec(nn.Module, ABC):
    """A map between pixels in [-1, 1] and what a stage's network sees."""

    channels: int
    #: How many (frames, rows, columns) of pixels one latent position stands for.
    factor: tuple[int, int, int]

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

    def encode(self, x: Float[Tensor, "b 3 f h w"]) -> Float[Tensor, "b 3 f h w"]:
        """Pixels as they are."""
        return x

    def decode(self, z: Float[Tensor, "b 3 f h w"]) -> Float[Tensor, "b 3 f h w"]:
        """Pixels as they are."""
        return z
