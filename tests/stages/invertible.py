"""A codec that is exactly invertible: the pixels of a cell become the channels of a position."""

from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from cascade.codec import Codec


class Cells(Codec):
    """Space and time into channels by `factor`; no value changes."""

    cellwise = True

    def __init__(self, *, factor: tuple[int, int, int]) -> None:
        super().__init__()
        self.factor = factor
        self.channels = 3 * self.cell

    def encode(self, x: Float[Tensor, "b 3 f h w"]) -> Float[Tensor, "b c f2 h2 w2"]:
        t, h, w = self.factor
        return rearrange(x, "b c (f t) (y h) (x w) -> b (c t h w) f y x", t=t, h=h, w=w)

    def decode(self, z: Float[Tensor, "b c f2 h2 w2"]) -> Float[Tensor, "b 3 f h w"]:
        t, h, w = self.factor
        return rearrange(z, "b (c t h w) f y x -> b c (f t) (y h) (x w)", t=t, h=h, w=w)
