"""A kind of stage on `meta`: one that reads pixels, such as an image codec, gives shapes alone."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from cascade.stage import Kind


class DryKind:
    """A kind whose clips have no values; where it cannot run on them, its scale gives the shape."""

    def __init__(self, kind: Kind) -> None:
        self.kind, self.scale = kind, kind.scale
        self.scalars, self.takes_low = kind.scalars, kind.takes_low

    def reduce(self, x: Float[Tensor, "b c f h w"]) -> Float[Tensor, "b c f2 h2 w2"] | None:
        """The output of the previous stage; None for a base."""
        time, space = self.scale.time, self.scale.space
        b, c, f, h, w = x.shape
        return self._or_empty(self.kind.reduce, x, (b, c, f // time, h // space, w // space))

    def expand(self, low: Float[Tensor, "b c f2 h2 w2"]) -> Float[Tensor, "b c f h w"]:
        """`low` on this stage's grid: the network's input."""
        return self._enlarged(self.kind.expand, low)

    def baseline(self, low: Float[Tensor, "b c f2 h2 w2"]) -> Float[Tensor, "b c f h w"]:
        """`low` on this stage's grid, by the method that the stage must beat."""
        return self._enlarged(self.kind.baseline, low)

    def new_frames(self, x: Float[Tensor, "b c f h w"]) -> Float[Tensor, "b c f3 h w"]:
        """The frames that the stage generates."""
        return self.kind.new_frames(x)

    def _enlarged(self, method: Callable[[Tensor], Tensor], low: Tensor) -> Tensor:
        time, space = self.scale.time, self.scale.space
        b, c, f, h, w = low.shape
        made = self._or_empty(method, low, (b, c, f * time, h * space, w * space))
        assert made is not None
        return made

    @staticmethod
    def _or_empty(
        method: Callable[[Tensor], Tensor | None], x: Tensor, shape: tuple[int, ...]
    ) -> Tensor | None:
        try:
            return method(x)
        except (RuntimeError, NotImplementedError, TypeError, ValueError):
            return torch.empty(shape, dtype=x.dtype, device=x.device)
