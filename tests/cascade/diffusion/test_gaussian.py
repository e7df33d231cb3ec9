from typing import get_args

import pytest
import torch

from cascade.diffusion.gaussian import Target, diffuse, per_frame, target, to_eps, to_x
from cascade.diffusion.schedule import CosineVP, RectifiedFlow, Schedule

NAMES = get_args(Target)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", [CosineVP, RectifiedFlow])
@pytest.mark.parametrize("shift", [0.0, -2.2, 1.5])
def test_every_target_leads_back_to_x_and_eps(
    name: Target, kind: type[Schedule], shift: float
) -> None:
    schedule = kind(logsnr_shift=shift)
    x, eps = torch.randn(2, 2, 3, 4, 3, 3, dtype=torch.float64)
    logsnr = schedule.logsnr(torch.rand(2, 4, dtype=torch.float64) * 0.9 + 0.05)
    alpha, sigma = per_frame(schedule.alpha(logsnr)), per_frame(schedule.sigma(logsnr))
    z = diffuse(x, eps, alpha, sigma)
    pred = target(name, x, eps, alpha, sigma)
    torch.testing.assert_close(to_x(name, pred, z, alpha, sigma), x, atol=1e-10, rtol=0)
    torch.testing.assert_close(to_eps(name, pred, z, alpha, sigma), eps, atol=1e-10, rtol=0)


def test_v_and_velocity_are_two_targets() -> None:
    x, eps = torch.randn(2, 1, 1, 1, 2, 2)
    half = torch.full((1, 1, 1, 1, 1), 0.5)
    torch.testing.assert_close(target("v", x, eps, half, half), 0.5 * (eps - x))
    torch.testing.assert_close(target("velocity", x, eps, half, half), eps - x)
