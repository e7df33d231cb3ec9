import math

import pytest
import torch

from cascade.diffusion.schedule import (
    CosineVP,
    LogitNormalTime,
    RectifiedFlow,
    Schedule,
    TimeDistribution,
    UniformTime,
)

SHIFTS = (0.0, 2 * math.log(64 / 256), 1.7)
SCHEDULES = [kind(logsnr_shift=shift) for kind in (CosineVP, RectifiedFlow) for shift in SHIFTS]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_time_inverts_logsnr(schedule: Schedule) -> None:
    t = torch.linspace(1e-3, 1 - 1e-3, 101, dtype=torch.float64)
    torch.testing.assert_close(schedule.time(schedule.logsnr(t)), t, atol=1e-12, rtol=0)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_alpha_and_sigma_have_the_logsnr(schedule: Schedule) -> None:
    logsnr = torch.linspace(-20, 20, 101, dtype=torch.float64)
    alpha, sigma = schedule.alpha(logsnr), schedule.sigma(logsnr)
    torch.testing.assert_close(2 * torch.log(alpha / sigma), logsnr, atol=1e-10, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_ends_of_time_are_finite_and_clipped(schedule: Schedule, dtype: torch.dtype) -> None:
    logsnr = schedule.logsnr(torch.tensor([0.0, 0.25, 0.5, 1.0], dtype=dtype))
    assert logsnr.dtype == dtype
    assert (logsnr.diff() < 0).all()
    assert logsnr[0].item() == pytest.approx(20, abs=1e-2)
    assert logsnr[-1].item() == pytest.approx(-20, abs=1e-2)


def test_cosine_is_variance_preserving_and_flow_is_straight() -> None:
    t = torch.linspace(0.01, 0.99, 50, dtype=torch.float64)
    vp, flow = CosineVP(), RectifiedFlow()
    logsnr = vp.logsnr(t)
    torch.testing.assert_close(vp.alpha(logsnr), torch.cos(t * math.pi / 2))
    torch.testing.assert_close(vp.sigma(logsnr), torch.sin(t * math.pi / 2))
    torch.testing.assert_close(flow.alpha(flow.logsnr(t)), 1 - t)
    torch.testing.assert_close(flow.sigma(flow.logsnr(t)), t)


def test_sd3_shift_a_is_a_logsnr_shift_of_minus_two_log_a() -> None:
    a = 3.0
    t = torch.linspace(0.01, 0.99, 50, dtype=torch.float64)
    plain, shifted = RectifiedFlow(), RectifiedFlow(logsnr_shift=-2 * math.log(a))
    sd3 = a * t / (1 + (a - 1) * t)
    torch.testing.assert_close(shifted.logsnr(t), plain.logsnr(t) - 2 * math.log(a))
    torch.testing.assert_close(shifted.logsnr(t), plain.logsnr(sd3))


def test_logit_normal_time_makes_logsnr_normal() -> None:
    mean, std = 0.8, 0.8
    quantiles = torch.tensor([0.02275013, 0.15865525, 0.5, 0.84134475], dtype=torch.float64)
    logsnr = RectifiedFlow().logsnr(LogitNormalTime(mean=mean, std=std)(quantiles))
    sigmas = torch.tensor([-2.0, -1.0, 0.0, 1.0], dtype=torch.float64)
    torch.testing.assert_close(logsnr, -2 * mean - 2 * std * sigmas, atol=1e-6, rtol=0)
    u = torch.rand(20_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    drawn = RectifiedFlow().logsnr(LogitNormalTime(mean=mean, std=std)(u))
    spread = 2 * std / math.sqrt(len(u))  # of the mean; of the standard deviation, 1/√2 of it
    assert drawn.mean().item() == pytest.approx(-2 * mean, abs=4 * spread)
    assert drawn.std().item() == pytest.approx(2 * std, abs=4 * spread)


def test_uniform_time_is_u() -> None:
    u = torch.rand(8)
    assert UniformTime()(u) is u


def test_impossible_values_are_refused_with_both_values() -> None:
    with pytest.raises(ValueError, match=r"CosineVP.*got 3\.0 and -3\.0"):
        CosineVP(logsnr_min=3.0, logsnr_max=-3.0)
    with pytest.raises(ValueError, match="std must be positive, got 0"):
        LogitNormalTime(std=0.0)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_speed_is_the_slope_of_time(schedule: Schedule) -> None:
    logsnr = torch.linspace(-19, 19, 39, dtype=torch.float64, requires_grad=True)
    schedule.time(logsnr).sum().backward()
    torch.testing.assert_close(schedule.speed(logsnr.detach()), -logsnr.grad)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_speed_is_infinite_where_time_is_clipped(dtype: torch.dtype) -> None:
    for schedule in (CosineVP(logsnr_max=9.2), RectifiedFlow(logsnr_min=-7.7, logsnr_shift=-3.0)):
        clipped = schedule.logsnr(torch.tensor([0.0, 1e-9, 0.5, 1 - 1e-7, 1.0], dtype=dtype))
        assert schedule.speed(clipped).isinf().tolist() == [True, True, False, True, True]


@pytest.mark.parametrize(
    "times", [UniformTime(), LogitNormalTime(), LogitNormalTime(mean=0.8, std=0.8)]
)
def test_the_density_of_times_is_the_slope_of_their_distribution(times: TimeDistribution) -> None:
    u = torch.linspace(0.001, 0.999, 101, dtype=torch.float64, requires_grad=True)
    t = times(u)
    t.sum().backward()
    torch.testing.assert_close(times.density(t.detach()), 1 / u.grad)
