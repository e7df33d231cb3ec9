from itertools import product
from typing import get_args

import pytest
import torch
from torch import Tensor

from cascade.diffusion.gaussian import Target, diffuse, per_frame, target, to_eps, to_x
from cascade.diffusion.loss import MinSNR, Sigmoid, Uniform, Weight, denoising_loss, eps_factor
from cascade.diffusion.process import Diffusion
from cascade.diffusion.schedule import (
    CosineVP,
    LogitNormalTime,
    RectifiedFlow,
    Schedule,
    TimeDistribution,
    UniformTime,
)

NAMES: tuple[Target, ...] = get_args(Target)
WEIGHTS = [
    *(Uniform(space=name) for name in NAMES),
    Uniform(space="velocity", clip=0.05),
    MinSNR(),
    Sigmoid(bias=-1.0),
]
EVERY = torch.ones(3, 4, dtype=torch.bool)


class Problem:
    """A clean video, its noise and a wrong guess, at one level per frame."""

    def __init__(self, schedule: Schedule) -> None:
        generator = torch.Generator().manual_seed(0)
        shape = (3, 3, 3, 4, 2, 2)
        self.x, self.eps, error = torch.randn(*shape, generator=generator, dtype=torch.float64)
        self.guess = self.x + 0.1 * error
        t = torch.rand(3, 4, generator=generator, dtype=torch.float64) * 0.9 + 0.05
        self.logsnr = schedule.logsnr(t)
        self.alpha, self.sigma = schedule.alpha(self.logsnr), schedule.sigma(self.logsnr)
        self.wide = per_frame(self.alpha), per_frame(self.sigma)
        self.z = diffuse(self.x, self.eps, *self.wide)

    def said(self, name: Target) -> Tensor:
        """The guess, in the words of a network that predicts `name`."""
        eps = to_eps("x", self.guess, self.z, *self.wide)
        return target(name, self.guess, eps, *self.wide)

    def true(self, name: Target) -> Tensor:
        return target(name, self.x, self.eps, *self.wide)

    def loss(self, name: Target, weight: Weight, mask: Tensor = EVERY) -> Tensor:
        return denoising_loss(
            name,
            self.said(name),
            self.true(name),
            self.logsnr,
            *self.wide,
            weight,
            mask,
        )

    def mse(self, name: Target) -> Tensor:
        return (self.said(name) - self.true(name)).square().mean(dim=(1, 2, 3, 4))


PROBLEMS = [Problem(CosineVP(logsnr_shift=-1.0)), Problem(RectifiedFlow(logsnr_shift=0.5))]


@pytest.mark.parametrize(("problem", "weight"), [*product(PROBLEMS, WEIGHTS)])
def test_the_same_x_costs_the_same_whatever_is_predicted(problem: Problem, weight: Weight) -> None:
    costs = torch.stack([problem.loss(name, weight) for name in NAMES])
    torch.testing.assert_close(costs, costs[:1].expand_as(costs), rtol=1e-10, atol=0)


@pytest.mark.parametrize(("problem", "space"), [*product(PROBLEMS, NAMES)])
def test_uniform_is_the_plain_mse_of_its_space(problem: Problem, space: Target) -> None:
    torch.testing.assert_close(problem.loss("x", Uniform(space=space)), problem.mse(space))


@pytest.mark.parametrize(("problem", "name"), [*product(PROBLEMS, NAMES)])
def test_eps_factor_carries_an_error_over_to_eps(problem: Problem, name: Target) -> None:
    error = to_eps(name, problem.said(name), problem.z, *problem.wide) - problem.eps
    factor = per_frame(eps_factor(name, problem.alpha, problem.sigma))
    torch.testing.assert_close(error, factor * (problem.said(name) - problem.true(name)))
    torch.testing.assert_close(
        to_x(name, problem.said(name), problem.z, *problem.wide), problem.guess
    )


def test_min_snr_is_min_of_snr_and_gamma_over_snr() -> None:
    problem = PROBLEMS[0]
    snr = problem.alpha**2 / problem.sigma**2
    weight = MinSNR(gamma=5.0)(problem.logsnr, problem.alpha, problem.sigma)
    torch.testing.assert_close(weight, snr.clamp(max=5) / snr)
    on_v = weight * eps_factor("v", problem.alpha, problem.sigma) ** 2
    torch.testing.assert_close(on_v, snr.clamp(max=5) / (snr + 1))


def test_sigmoid_is_half_at_its_bias() -> None:
    logsnr = torch.tensor([[-3.0, 2.0, 7.0]])
    flow = RectifiedFlow()
    weight = Sigmoid(bias=2.0)(logsnr, flow.alpha(logsnr), flow.sigma(logsnr))
    torch.testing.assert_close(weight, torch.sigmoid(2.0 - logsnr))
    assert weight[0, 1].item() == pytest.approx(0.5)


#: Distributions of λ in [-20, 20] of every width and place.
DRAWS = [
    (schedule, times)
    for schedule in (CosineVP(), CosineVP(logsnr_shift=-2.2), RectifiedFlow(logsnr_shift=1.0))
    for times in (UniformTime(), LogitNormalTime(std=2.0), LogitNormalTime(mean=0.5, std=1.5))
]


def objective(diffusion: Diffusion) -> float:
    """The expected loss of a fixed network, whose ε has the error exp(−(λ + 1)²/4) at λ."""
    u = (torch.arange(400_000, dtype=torch.float64) + 0.5) / 400_000
    logsnr = diffusion.logsnr(u)
    alpha, sigma = diffusion.schedule.alpha(logsnr), diffusion.schedule.sigma(logsnr)
    error = torch.exp(-((logsnr + 1) ** 2) / 4)
    return (diffusion.weight(logsnr, alpha, sigma) * error).mean().item()


def process(schedule: Schedule, times: TimeDistribution, weight: Weight) -> Diffusion:
    return Diffusion(schedule=schedule, times=times, target="v", weight=weight)


@pytest.mark.parametrize(("schedule", "times"), DRAWS)
def test_the_sigmoid_objective_is_one_integral_however_log_snr_is_drawn(
    schedule: Schedule, times: TimeDistribution
) -> None:
    logsnr = torch.linspace(-20, 20, 200_001, dtype=torch.float64)
    error = torch.exp(-((logsnr + 1) ** 2) / 4)
    integral = torch.trapezoid(torch.sigmoid(-1.0 - logsnr) * error, logsnr).item()
    drawn = objective(process(schedule, times, Sigmoid(bias=-1.0)))
    assert drawn == pytest.approx(integral, rel=1e-4)


@pytest.mark.parametrize("weight", [Uniform(space="eps"), MinSNR()])
def test_other_weights_multiply_what_is_drawn(weight: Weight) -> None:
    found = [objective(process(*draws, weight)) for draws in DRAWS[:2]]
    assert found[0] != pytest.approx(found[1], rel=0.05)
    assert process(*DRAWS[0], weight).weight is weight


def test_draws_beyond_the_ends_of_the_integral_carry_no_weight() -> None:
    schedule = CosineVP(logsnr_min=-2.0, logsnr_max=2.0)
    diffusion = process(schedule, UniformTime(), Sigmoid(bias=3.0))
    logsnr = diffusion.logsnr(torch.tensor([0.01, 0.4, 0.6, 0.99]))
    weight = diffusion.weight(logsnr, schedule.alpha(logsnr), schedule.sigma(logsnr))
    assert (weight > 0).tolist() == [False, True, True, False]
    u = (torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000
    logsnr = diffusion.logsnr(u)
    ones = diffusion.weight(logsnr, schedule.alpha(logsnr), schedule.sigma(logsnr))
    span = torch.linspace(-2, 2, 10_001, dtype=torch.float64)
    integral = torch.trapezoid(torch.sigmoid(3 - span), span).item()
    assert ones.mean().item() == pytest.approx(integral, rel=1e-4)


def test_the_density_of_drawn_log_snr_is_that_of_its_histogram() -> None:
    for schedule, times in DRAWS:
        diffusion = process(schedule, times, Sigmoid())
        drawn = diffusion.logsnr((torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000)
        edges = torch.linspace(-10, 10, 41, dtype=torch.float64)
        share = torch.histogram(drawn, edges).hist / len(drawn)
        fine = torch.linspace(-10, 10, 4001, dtype=torch.float64)
        mass = torch.cumulative_trapezoid(diffusion.density(fine), fine)
        expected = torch.cat([mass.new_zeros(1), mass])[::100].diff()
        torch.testing.assert_close(share, expected, atol=5e-5, rtol=0)


def test_clip_bounds_the_weight_of_x_and_changes_nothing_above_it() -> None:
    flow = RectifiedFlow()
    logsnr = torch.tensor([[20.0, 0.0]], dtype=torch.float64)
    alpha, sigma = flow.alpha(logsnr), flow.sigma(logsnr)
    on_x = eps_factor("x", alpha, sigma) ** 2
    clipped = Uniform(space="velocity", clip=0.05)(logsnr, alpha, sigma) * on_x
    plain = Uniform(space="velocity")(logsnr, alpha, sigma) * on_x
    assert clipped[0, 0].item() == pytest.approx(1 / 0.05**2)
    assert plain[0, 0] > 1e8
    torch.testing.assert_close(clipped[0, 1], plain[0, 1])


def test_only_carried_frames_cost() -> None:
    problem, weight = PROBLEMS[1], Uniform(space="velocity")
    mask = torch.tensor([[True] * 4, [False, True, False, True], [False] * 4])
    loss = problem.loss("x", weight, mask)
    per = (problem.said("velocity") - problem.true("velocity")).square().mean(dim=(1, 3, 4))
    torch.testing.assert_close(loss[0], per[0].mean())
    torch.testing.assert_close(loss[1], per[1, [1, 3]].mean())
    assert loss[2] == 0


def test_a_given_frame_at_the_clean_end_cannot_make_the_loss_infinite() -> None:
    nan = torch.full((1, 1, 2, 1, 1), torch.nan)
    nan[:, :, 1] = 1.0
    loss = denoising_loss(
        "x",
        nan,
        torch.zeros_like(nan),
        torch.tensor([[20.0, 0.0]]),
        per_frame(torch.tensor([[1.0, 0.5]])),
        per_frame(torch.tensor([[0.0, 0.5]])),
        Uniform(space="eps"),
        torch.tensor([[False, True]]),
    )
    assert loss.tolist() == [1.0]


def test_impossible_weights_are_refused() -> None:
    with pytest.raises(ValueError, match=r"lower bound of σ, in \(0, 1\), got 400"):
        Uniform(space="velocity", clip=400.0)
    with pytest.raises(ValueError, match="gamma must be positive, got 0"):
        MinSNR(gamma=0.0)
