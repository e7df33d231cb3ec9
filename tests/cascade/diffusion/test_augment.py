import math

import pytest
import torch

from cascade.diffusion.augment import NoiseAugment
from cascade.diffusion.schedule import CosineVP, RectifiedFlow, Schedule


@pytest.mark.parametrize(
    ("schedule", "snr", "sigma"),
    [
        (CosineVP(), 3.0, 0.50),
        (CosineVP(), 5.0, 0.408),
        (RectifiedFlow(), 3.0, 0.366),
        (RectifiedFlow(), 5.0, 0.309),
    ],
)
def test_sampling_level_is_the_published_one(schedule: Schedule, snr: float, sigma: float) -> None:
    level = NoiseAugment(schedule=schedule, snr=snr).sampling_level(2)
    assert level.shape == (2,)
    assert schedule.sigma(level)[0].item() == pytest.approx(sigma, abs=5e-4)


def test_sampling_level_can_be_chosen_when_called() -> None:
    level = NoiseAugment(schedule=CosineVP(), snr=3.0).sampling_level(1, snr=7.0)
    assert level.item() == pytest.approx(math.log(7.0))


def test_training_levels_fill_the_stated_span_of_time() -> None:
    schedule = CosineVP(logsnr_shift=-1.0)
    augment = NoiseAugment(schedule=schedule, min_t=0.1, max_t=0.6)
    u = torch.linspace(0, 1, 11, dtype=torch.float64)
    torch.testing.assert_close(schedule.time(augment.level(u)), 0.1 + 0.5 * u)


def test_each_sample_has_a_level_of_its_own_in_all_its_frames() -> None:
    low, eps = torch.randn(2, 3, 3, 4, 2, 2)
    schedule = RectifiedFlow()
    augment = NoiseAugment(schedule=schedule)
    logsnr = torch.tensor([20.0, 0.0, -20.0])
    noisy = augment(low, logsnr, eps)
    torch.testing.assert_close(noisy[0], low[0], atol=1e-3, rtol=0)
    torch.testing.assert_close(noisy[1], (low[1] + eps[1]) / 2)
    torch.testing.assert_close(noisy[2], eps[2], atol=1e-3, rtol=0)
    alone = augment(low[1:2], logsnr[1:2], eps[1:2])
    assert torch.equal(alone, noisy[1:2])


def test_impossible_levels_are_refused() -> None:
    with pytest.raises(ValueError, match=r"got 0\.5 and 0\.2"):
        NoiseAugment(schedule=CosineVP(), min_t=0.5, max_t=0.2)
    with pytest.raises(ValueError, match="snr must be positive, got 0"):
        NoiseAugment(schedule=CosineVP(), snr=0.0)
    with pytest.raises(ValueError, match="snr must be positive, got -1"):
        NoiseAugment(schedule=CosineVP()).sampling_level(1, snr=-1.0)
