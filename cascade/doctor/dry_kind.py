"""A kind of stage on `meta`: one that reads pixels, such as an image codec, gives shapes alone."""

from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch
from jaxtyping import Float
from torch import Tensor

from cascade.stage import Kind

Made = TypeVar("Made", Tensor, Tensor | None)


class DryKind:
    """A kind whose clips have no values.

    A method that needs values is run on one clip of zeros, for the shape of its result; an error
    of the method itself is raised there.
    """

    def __init__(self, kind: Kind) -> None:
        self.kind, self.scale = kind, kind.scale
        self.scalars, self.takes_low, self.reach = kind.scalars, kind.takes_low, kind.reach

    def reduce(self, x: Float[Tensor, "b c f h w"]) -> Float[Tensor, "b c f2 h2 w2"] | None:
        """The output of the previous stage; None for a base."""
        return _without_values(self.kind.reduce, x)

    def expand(self, low: Float[Tensor, "b c f2 h2 w2"]) -> Float[Tensor, "b c f h w"]:
        """`low` on this stage's grid: the network's input."""
        return _without_values(self.kind.expand, low)

    def baseline(self, low: Float[Tensor, "b c f2 h2 w2"]) -> Float[Tensor, "b c f h w"]:
        """`low` on this stage's grid, by the method that the stage must beat."""
        return _without_values(self.kind.baseline, low)

    def new_frames(self, x: Float[Tensor, "b c f h w"]) -> Float[Tensor, "b c f3 h w"]:
        """The frames that the stage generates."""
        return _without_values(self.kind.new_frames, x)


def _without_values(method: Callable[[Tensor], Made], x: Tensor) -> Made:
    try:
        return method(x)
    except (NotImplementedError, RuntimeError, TypeError):  # how torch refuses to read `meta`
        zeros = torch.zeros((1, *x.shape[1:]), dtype=x.dtype, device="cpu")
        one: Any = method(zeros)
        if one is not None:
            one = x.new_empty((x.shape[0], *one.shape[1:]), dtype=one.dtype)
        return cast(Made, one)
