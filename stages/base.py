"""The first stage of a cascade: text (and given frames) to a small video of few frames."""

from typing import final

from jaxtyping import Float
from torch import Tensor

from cascade.grid import Scale


@final
class Base:
    """Generates video from noise; there is no stage before it."""

    scalars: tuple[str, ...] = ("fps", "zoom", "height", "width")
    takes_low: bool = False

    def __init__(self) -> None:
        self.scale = Scale()

    def reduce(self, x: Float[Tensor, "b c f h w"]) -> None:  # noqa: ARG002 (no stage before a base)
        """None: there is no stage before a base."""
        return

    def expand(self, low: Float[Tensor, "b c f2 h2 w2"]) -> Float[Tensor, "b c f h w"]:
        """Refused: there is no stage before a base."""
        raise ValueError(f"a base takes no video of a stage before it, got {tuple(low.shape)}")

    def baseline(self, low: Float[Tensor, "b c f2 h2 w2"]) -> Float[Tensor, "b c f h w"]:
        """Refused: a base has no baseline to beat on a clip."""
        raise ValueError(f"a base interpolates no video, got {tuple(low.shape)}")

    def new_frames(self, x: Float[Tensor, "b c f h w"]) -> Float[Tensor, "b c f h w"]:
        """All frames."""
        return x
