"""The Gaussian z = α x + σ ε, and the four quantities that a network may predict from it.

The equations hold for every α, σ, not only for variance-preserving ones. Two targets are both
called v in the literature; here v = α ε − σ x (Salimans & Ho 2022) and velocity = ε − x (rectified
flow).
"""

from typing import Literal, assert_never

from jaxtyping import Float, Shaped
from torch import Tensor

Target = Literal["x", "eps", "v", "velocity"]
Video = Float[Tensor, "b c f h w"]
Level = Float[Tensor, "..."]  # a number, or any shape that broadcasts: (b 1 f 1 1)


def per_frame(level: Shaped[Tensor, "b f"]) -> Shaped[Tensor, "b 1 f 1 1"]:
    """One number per frame, shaped to multiply a video."""
    return level[:, None, :, None, None]


def diffuse(x: Video, eps: Video, alpha: Level, sigma: Level) -> Video:
    """Z = α x + σ ε."""
    return alpha * x + sigma * eps


def target(name: Target, x: Video, eps: Video, alpha: Level, sigma: Level) -> Video:
    """The target of a network that predicts `name`."""
    match name:
        case "x":
            return x
        case "eps":
            return eps
        case "v":
            return alpha * eps - sigma * x
        case "velocity":
            return eps - x
    assert_never(name)


def to_x(name: Target, pred: Video, z: Video, alpha: Level, sigma: Level) -> Video:
    """The clean x̂ that `pred` implies."""
    match name:
        case "x":
            return pred
        case "eps":
            return (z - sigma * pred) / alpha
        case "v":
            return (alpha * z - sigma * pred) / (alpha**2 + sigma**2)
        case "velocity":
            return (z - sigma * pred) / (alpha + sigma)
    assert_never(name)


def to_eps(name: Target, pred: Video, z: Video, alpha: Level, sigma: Level) -> Video:
    """The noise ε̂ that `pred` implies."""
    match name:
        case "x":
            return (z - alpha * pred) / sigma
        case "eps":
            return pred
        case "v":
            return (sigma * z + alpha * pred) / (alpha**2 + sigma**2)
        case "velocity":
            return (z + alpha * pred) / (alpha + sigma)
    assert_never(name)
