"""Laws of PSNR and SSIM."""

import pytest
import torch
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

from cascade.eval.fidelity import WINDOW, psnr, ssim


def pair(height: int, width: int) -> tuple[Tensor, Tensor]:
    """Two clips of smooth frames that differ by noise and in brightness, in [-1, 1]."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(2 * 3, 3, 4, 4, generator=generator)
    frames = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")
    wanted = frames.view(2, 3, 3, height, width).transpose(1, 2) * 2 - 1
    noise = torch.randn(wanted.shape, generator=generator)
    return (0.8 * wanted + 0.1 + 0.1 * noise).clamp(-1, 1), wanted


@pytest.mark.parametrize("size", [(16, 16), (24, 40), (11, 13)])
def test_ssim_is_that_of_torchmetrics_without_its_padded_border(size: tuple[int, int]) -> None:
    made, wanted = pair(*size)
    one, other = ((v.transpose(1, 2).flatten(0, 1) + 1) / 2 for v in (made, wanted))
    _, full = structural_similarity_index_measure(
        one.contiguous(), other.contiguous(), data_range=1.0, return_full_image=True
    )
    border = WINDOW // 2
    inside = full[..., border:-border, border:-border]
    assert inside.shape[2:] == (size[0] - 10, size[1] - 10)
    expected = inside.reshape(2, -1).mean(1)
    torch.testing.assert_close(ssim(made, wanted), expected, atol=1e-5, rtol=0)


def test_ssim_is_the_formula_written_out() -> None:
    made, wanted = (video[:1, :1, :1, :11, :11].double() for video in pair(16, 16))
    place = torch.arange(11) - 5.0
    window = torch.exp(-(place[:, None] ** 2 + place**2) / (2 * 1.5**2)).double()
    window /= window.sum()
    x, y = ((video[0, 0, 0] + 1) / 2 * 255 for video in (made, wanted))
    mean_x, mean_y = (window * x).sum(), (window * y).sum()
    var_x, var_y = (window * (x - mean_x) ** 2).sum(), (window * (y - mean_y) ** 2).sum()
    cov = (window * (x - mean_x) * (y - mean_y)).sum()
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    expected = (2 * mean_x * mean_y + c1) * (2 * cov + c2)
    expected /= (mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2)
    assert ssim(made, wanted).item() == pytest.approx(expected.item(), abs=1e-5)


def test_ssim_of_a_clip_with_itself_is_1_and_of_each_clip_its_own() -> None:
    made, wanted = pair(16, 16)
    torch.testing.assert_close(ssim(wanted, wanted), torch.ones(2))
    assert (ssim(made, wanted) < 0.99).all()
    torch.testing.assert_close(ssim(made[1:], wanted[1:]), ssim(made, wanted)[1:])


def test_a_frame_smaller_than_the_window_is_refused() -> None:
    made, wanted = pair(10, 16)
    with pytest.raises(ValueError, match=r"window of 11×11 pixels, got 10×16"):
        ssim(made, wanted)


def test_psnr_is_that_of_the_mean_squared_error_and_ends_at_8_bits() -> None:
    wanted = torch.zeros(1, 3, 2, 4, 4)
    assert psnr(wanted + 0.2, wanted).item() == pytest.approx(20.0, abs=1e-4)
    assert psnr(wanted, wanted).item() == pytest.approx(58.9, abs=0.05)
