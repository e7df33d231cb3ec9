"""How near a video comes to the one it should be: PSNR and SSIM per clip, in [-1, 1] pixels."""

import torch
from jaxtyping import Float
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

#: The error that rounding to 8 bits makes, in [-1, 1] pixels; nothing is told apart below it.
ROUNDING = (2 / 255) ** 2 / 12


def psnr(
    made: Float[Tensor, "b c f h w"], wanted: Float[Tensor, "b c f h w"]
) -> Float[Tensor, " b"]:
    """Peak signal-to-noise ratio in dB over all pixels of a clip, 58.9 dB (8 bits) at most."""
    mse = (made - wanted).square().mean((1, 2, 3, 4))
    return 10 * torch.log10(4 / mse.clamp(min=ROUNDING))


def ssim(
    made: Float[Tensor, "b c f h w"], wanted: Float[Tensor, "b c f h w"]
) -> Float[Tensor, " b"]:
    """Structural similarity (Wang et al., 2004), the mean over a clip's frames."""
    count, _, frames, _, _ = made.shape
    one, other = (v.transpose(1, 2).flatten(0, 1).contiguous() for v in (made, wanted))
    value = structural_similarity_index_measure(one, other, data_range=2.0, reduction="none")
    assert isinstance(value, Tensor)
    return value.view(count, frames).mean(1)
