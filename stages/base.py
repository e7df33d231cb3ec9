"""The first stage of a cascade: text (and given frames) to a small video of few frames."""

from typing import final

from jaxtyping import Float
from torch import Tensor

from cascade.grid import Scale


@final
class Base:
    """Generates video from noise; a base has no previous stage."""

    scalars: tuple[str, ...] = ("fps", "zoom", "height", "width")
    takes_low: bool = False
    reach: int = 0

    def __init__(self) -> None:
        self.scale = Scale()

    def reduce(self, _x: Float[Tensor, "b c f h w"]) -> None:
        """None: a base has no previous stage."""
        return

    def expand(self, low: Float[Tensor, "b c f2 h2 w2"]) -> Float[Tensor, "b c f h w"]:
        """Refused: a base has no previous stage."""
        raise ValueError(f"a base takes no video of a previous stage, got {tuple(low.shape)}")

    def baseline(self, low: Float[Tensor, "b c f2 h2 w2"]) -> Float[Tensor, "b c f h w"]:
        """Refused: a base has no baseline."""
        raise ValueError(f"a base has no baseline to interpolate, got {tuple(low.shape)}")

    def new_frames(self, x: Float[Tensor, "b c f h w"]) -> Float[Tensor, "b c f h w"]:
        """All frames."""
        return x
