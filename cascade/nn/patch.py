"""Spacetime patches: video to tokens and back."""

from einops import rearrange
from jaxtyping import Float
from torch import Tensor

Triple = tuple[int, int, int]


def patchify(x: Float[Tensor, "b c f h w"], patch: Triple) -> Float[Tensor, "b frames s e"]:
    """Cut a video into patches of (frames, height, width): tokens by frame and position."""
    i, j, k = patch
    return rearrange(x, "b c (f i) (h j) (w k) -> b f (h w) (c i j k)", i=i, j=j, k=k)


def unpatchify(
    tokens: Float[Tensor, "b frames s e"], shape: Triple, patch: Triple
) -> Float[Tensor, "b c f h w"]:
    """The inverse of `patchify`; `shape` is (frames, height, width) in patches."""
    i, j, k = patch
    return rearrange(
        tokens, "b f (h w) (c i j k) -> b c (f i) (h j) (w k)", h=shape[1], i=i, j=j, k=k
    )


def in_patches(shape: tuple[int, ...], patch: Triple, *, name: str) -> Triple:
    """(frames, height, width) counted in patches.

    Raises:
        ValueError: a side is not a multiple of its patch.
    """
    for side, size, factor in zip(("frames", "height", "width"), shape, patch, strict=True):
        if size % factor:
            raise ValueError(
                f"{name}: {side} must be a multiple of {factor}, got {size}; "
                f"the nearest that fits is {max(factor, round(size / factor) * factor)}"
            )
    frames, height, width = (n // p for n, p in zip(shape, patch, strict=True))
    return frames, height, width
