"""On Gaussian data the ideal denoiser is linear, and so is every sampler with it.

So its mean and variance need no Monte Carlo: each source of noise (the start, one per step) gets a
pixel of its own, and the squares of what comes out add up to the variance, exactly.
"""

import math
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from cascade.diffusion.sampler import (
    DDIM,
    Ancestral,
    Denoise,
    DPMSolverPP2M,
    Euler,
    Heun,
    Sampler,
    Step,
    levels,
)
from cascade.diffusion.schedule import CosineVP, RectifiedFlow, Schedule

MEAN, STD = 0.4, 0.5
SCHEDULES = [kind(logsnr_shift=shift) for kind in (CosineVP, RectifiedFlow) for shift in (0, -2.0)]
FIRST_ORDER = [Ancestral(gamma=g) for g in (0.0, 0.3, 1.0)]
FIRST_ORDER += [DDIM(), DDIM(eta=0.5), DDIM(eta=1.0), Euler()]
SECOND_ORDER: list[Sampler] = [Heun(), DPMSolverPP2M()]
STOCHASTIC = [Ancestral(), Ancestral(gamma=0.3), DDIM(eta=0.5)]


def sampled(sampler: Sampler, denoise: Denoise, z: Tensor, **settings: Any) -> Tensor:
    """What the sampler returns, with every x̂ from `denoise`."""
    walk = sampler.walk(z, **settings)
    try:
        asked = next(walk)
        while True:
            asked = walk.send(denoise(*asked))
    except StopIteration as end:
        return end.value


class Gaussian:
    """E[x | z] for pixels of N(MEAN, STD²)."""

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule
        self.steps: list[Step] = []

    def __call__(self, z: Tensor, step: Step) -> Tensor:
        self.steps.append(step)
        logsnr = torch.tensor(step.logsnr, dtype=torch.float64)
        alpha, sigma = self.schedule.alpha(logsnr), self.schedule.sigma(logsnr)
        gain = alpha * STD**2 / (alpha**2 * STD**2 + sigma**2)
        return MEAN + gain * (z - alpha * MEAN)


def moments(sampler: Sampler, schedule: Schedule, steps: int) -> tuple[float, float]:
    """The exact mean and standard deviation of what the sampler makes."""
    z = torch.zeros(1, 1, 1, 1, steps + 1, dtype=torch.float64)
    z[..., 1] = 1

    def noise(index: int) -> Tensor:
        unit = torch.zeros_like(z)
        unit[..., index + 2] = 1
        return unit

    made = sampled(
        sampler, Gaussian(schedule), z, schedule=schedule, steps=steps, noise=noise
    ).flatten()
    return made[0].item(), (made[1:] - made[0]).norm().item()


def error(sampler: Sampler, schedule: Schedule, steps: int) -> float:
    return moments(sampler, schedule, steps)[1] - STD


@pytest.mark.parametrize(("sampler", "schedule"), [*product(FIRST_ORDER + SECOND_ORDER, SCHEDULES)])
def test_every_sampler_reaches_mean_and_spread_of_a_gaussian(
    sampler: Sampler, schedule: Schedule
) -> None:
    mean, _ = moments(sampler, schedule, 64)
    assert mean == pytest.approx(MEAN, abs=5e-5)  # the start forgets α·mean, α = 4.5e-5
    half, full = error(sampler, schedule, 128), error(sampler, schedule, 256)
    assert abs(full) < 0.04 * STD
    assert abs(full) < 0.6 * abs(half)  # at least first order
    assert abs(2 * full - half) < 0.01 * STD  # and towards 0, by Richardson


@pytest.mark.parametrize("kind", [CosineVP, RectifiedFlow])
@pytest.mark.parametrize("shift", [0.0, -2.0])
@pytest.mark.parametrize("sampler", SECOND_ORDER)
def test_heun_and_dpm_solver_are_of_higher_order_than_euler(
    sampler: Sampler, shift: float, kind: type[Schedule]
) -> None:
    schedule = kind(logsnr_shift=shift, logsnr_min=-40.0)  # so that the start is noise alone

    def order(kind: Sampler) -> float:
        return math.log2(abs(error(kind, schedule, 128) / error(kind, schedule, 512))) / 2

    assert order(Euler()) == pytest.approx(1, abs=0.05)
    assert order(sampler) > 1.4  # 2 in the limit; at the ends of time steps are long in λ
    assert abs(error(sampler, schedule, 32)) < abs(error(Euler(), schedule, 32)) / 3


@pytest.mark.parametrize("gamma", [0.0, 0.5])
def test_many_samples_have_the_exact_moments(gamma: float) -> None:
    schedule, count = CosineVP(), 40_000
    generator = torch.Generator().manual_seed(0)

    def noise(index: int) -> Tensor:
        return torch.randn(1, 1, 1, 1, count, generator=generator, dtype=torch.float64)

    sampler = Ancestral(gamma=gamma)
    made = sampled(sampler, Gaussian(schedule), noise(0), schedule=schedule, steps=32, noise=noise)
    mean, std = moments(sampler, schedule, 32)
    assert made.mean().item() == pytest.approx(mean, abs=4 * std / math.sqrt(count))
    assert made.std().item() == pytest.approx(std, abs=4 * std / math.sqrt(2 * count))


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_ddim_without_noise_is_euler_and_with_all_of_it_ancestral(schedule: Schedule) -> None:
    z = torch.randn(2, 3, 2, 4, 4, dtype=torch.float64)
    noise = torch.randn(8, *z.shape, dtype=torch.float64)

    def made(sampler: Sampler) -> Tensor:
        return sampled(
            sampler,
            Gaussian(schedule),
            z,
            schedule=schedule,
            steps=8,
            noise=lambda index: noise[index],
        )

    torch.testing.assert_close(made(DDIM()), made(Euler()), atol=1e-10, rtol=0)
    torch.testing.assert_close(made(DDIM(eta=1.0)), made(Ancestral()), atol=1e-10, rtol=0)


def test_noise_comes_from_the_caller_alone_and_once_per_move() -> None:
    z = torch.randn(1, 1, 1, 2, 2, dtype=torch.float64)
    for sampler in STOCHASTIC:
        asked: list[int] = []

        def noise(index: int, asked: list[int] = asked) -> Tensor:
            asked.append(index)
            return torch.full_like(z, 0.1 * index)

        schedule = RectifiedFlow()
        first, again = (
            sampled(sampler, Gaussian(schedule), z, schedule=schedule, steps=5, noise=noise)
            for _ in range(2)
        )
        assert asked == [0, 1, 2, 3] * 2
        assert torch.equal(first, again)


@pytest.mark.parametrize("sampler", STOCHASTIC)
def test_a_stochastic_sampler_without_noise_is_refused(sampler: Sampler) -> None:
    schedule = CosineVP()
    with pytest.raises(ValueError, match=rf"{type(sampler).__name__} is stochastic: step 0"):
        sampled(sampler, Gaussian(schedule), torch.zeros(1, 1, 1, 1, 1), schedule=schedule, steps=2)


@pytest.mark.parametrize("sampler", [Ancestral(), DDIM(), Euler(), Heun(), DPMSolverPP2M()])
def test_steps_come_in_order_and_the_last_prediction_is_returned(sampler: Sampler) -> None:
    schedule = CosineVP(logsnr_shift=1.0)
    ideal, last = Gaussian(schedule), []

    def denoise(z: Tensor, step: Step) -> Tensor:
        last.append(ideal(z, step))
        return last[-1]

    z = torch.randn(1, 1, 1, 2, 2)
    made = sampled(sampler, denoise, z, schedule=schedule, steps=4, noise=lambda _: z)
    assert made is last[-1]
    assert [step.index for step in ideal.steps] == (
        [0, 0, 1, 1, 2, 2, 3] if len(ideal.steps) > 4 else [0, 1, 2, 3]
    )
    assert {step.count for step in ideal.steps} == {4}
    for step in ideal.steps:
        assert schedule.logsnr(torch.tensor(step.t)).item() == pytest.approx(step.logsnr, abs=1e-2)


@pytest.mark.parametrize("sampler", [Ancestral(), DDIM(), Euler(), Heun(), DPMSolverPP2M()])
def test_one_step_is_one_prediction_from_noise(sampler: Sampler) -> None:
    schedule = RectifiedFlow()
    z = torch.randn(1, 1, 1, 2, 2)
    made = sampled(sampler, lambda z, _: 0.5 * z, z, schedule=schedule, steps=1)
    assert torch.equal(made, 0.5 * z)


@pytest.mark.parametrize("sampler", [DDIM(), Euler(), Heun(), DPMSolverPP2M()])
def test_a_later_start_keeps_more_of_the_video(sampler: Sampler) -> None:
    schedule = RectifiedFlow()
    x = torch.full((1, 1, 1, 1, 1), 1.4, dtype=torch.float64)  # two deviations from the mean
    kept = []
    for start in (0.1, 0.4, 0.7, 1.0):
        first = levels(schedule, 1, start)[0]
        z = first.alpha * x  # with noise of 0
        made = sampled(sampler, Gaussian(schedule), z, schedule=schedule, steps=200, start=start)
        kept.append(made.item())
        assert first.step.t == start
    assert kept == sorted(kept, reverse=True)


def test_schedules_clipped_over_many_steps_stay_finite() -> None:
    schedule = CosineVP(logsnr_shift=-16.0)
    for sampler in FIRST_ORDER + SECOND_ORDER:
        mean, std = moments(sampler, schedule, 20)
        assert math.isfinite(mean)
        assert math.isfinite(std)


def test_impossible_walks_are_refused() -> None:
    for steps, start, rule in (
        (0, 1.0, "steps must be at least 1"),
        (4, 0.0, "start"),
        (4, 1.5, "start"),
    ):
        with pytest.raises(ValueError, match=rf"{rule}.*got"):
            levels(CosineVP(), steps, start)
    with pytest.raises(ValueError, match=r"gamma must lie in \[0, 1\], got 2"):
        Ancestral(gamma=2.0)
    with pytest.raises(ValueError, match=r"eta must lie in \[0, 1\], got -1"):
        DDIM(eta=-1.0)
