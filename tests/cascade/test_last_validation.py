"""The last validation in a line: what the figures are, and what they mean."""

import pytest

from cascade.last_validation import in_words


@pytest.mark.parametrize(
    ("figures", "said"),
    [
        ({}, "last validation: none"),
        ({"val/loss": 0.51234}, "last validation: loss 0.5123"),
        (
            {"val/loss": 0.5, "val/made/psnr": 24.0, "val/made/plain_psnr": 22.5},
            "last validation: loss 0.5, PSNR 24.00 dB from the previous stage's output, 1.50 dB "
            "above interpolation",
        ),
        (
            {"val/true/psnr": 24.0, "val/true/plain_psnr": 30.25},
            "last validation: PSNR 24.00 dB from the true low resolution, 6.25 dB below "
            "interpolation; it does not beat interpolation yet: train longer, or see "
            "stage.residual",
        ),
        ({"val/loss": 1, "val/made/psnr": float("nan")}, "last validation: loss 1"),
    ],
)
def test_the_last_validation_is_one_line(figures, said):
    assert in_words(figures, after_stage=True) == said


def test_the_start_of_a_stage_without_the_one_before_is_the_noised_low_resolution():
    figures = {"val/made/psnr": 24.0, "val/made/plain_psnr": 22.5}
    assert "from the low resolution, noised" in in_words(figures, after_stage=False)
