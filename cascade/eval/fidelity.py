"""How near a video comes to its reference: PSNR and SSIM per clip, of pixels in [-1, 1]."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

#: The mean squared error of rounding to 8 bits, in [-1, 1] pixels; smaller errors do not count.
ROUNDING = (2 / 255) ** 2 / 12
#: Side and standard deviation in pixels of SSIM's Gaussian window (Wang et al. 2004, III.B).
WINDOW, SIGMA = 11, 1.5
#: SSIM's constants (K₁ L)² and (K₂ L)² for the range L = 1 of pixels in [0, 1].
C1, C2 = 0.01**2, 0.03**2


def psnr(
    made: Float[Tensor, "b c f h w"], wanted: Float[Tensor, "b c f h w"]
) -> Float[Tensor, " b"]:
    """Peak signal-to-noise ratio in dB over all pixels of a clip, 58.9 dB (8 bits) at most."""
    mse = (made - wanted).square().mean((1, 2, 3, 4))
    return 10 * torch.log10(4 / mse.clamp(min=ROUNDING))


def ssim(
    made: Float[Tensor, "b c f h w"], wanted: Float[Tensor, "b c f h w"]
) -> Float[Tensor, " b"]:
    """Structural similarity (Wang et al. 2004, eq. 13), the mean over a clip's frames and channels.

    Pixels are taken in [0, 1], since SSIM is not invariant to an offset. Windows lie wholly inside
    the frame: there is no padding, so a frame of h×w has (h - 10)×(w - 10) values.

    Raises:
        ValueError: a frame is smaller than the window.
    """
    if min(made.shape[3:]) < WINDOW:
        raise ValueError(
            f"ssim: a frame must hold the window of {WINDOW}×{WINDOW} pixels, got "
            f"{made.shape[3]}×{made.shape[4]}; compare by PSNR there"
        )
    x, y = ((video.float() + 1) / 2 for video in (made, wanted))
    mean_x, mean_y = _windowed(x), _windowed(y)
    variances = _windowed(x * x) - mean_x**2 + _windowed(y * y) - mean_y**2
    covariance = _windowed(x * y) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + C1) / (mean_x**2 + mean_y**2 + C1)
    structure = (2 * covariance + C2) / (variances.clamp(min=0) + C2)
    return (luminance * structure).mean((1, 2, 3, 4))


def _windowed(x: Float[Tensor, "b c f h w"]) -> Float[Tensor, "b c f h2 w2"]:
    """The Gaussian-weighted mean of every window."""
    place = torch.arange(WINDOW, dtype=x.dtype, device=x.device) - WINDOW // 2
    line = torch.exp(-(place**2) / (2 * SIGMA**2))
    line = line / line.sum()
    images = x.flatten(0, 2)[:, None]
    images = F.conv2d(F.conv2d(images, line[None, None, :, None]), line[None, None, None])
    return images.view(*x.shape[:3], *images.shape[2:])
