import pytest
import torch
from torch import Tensor

from cascade.diffusion.gaussian import diffuse, to_eps, to_x
from cascade.diffusion.guidance import DynamicThreshold, Guidance, Oscillate, ZeroStar
from cascade.diffusion.sampler import Step

ALPHA, SIGMA = 0.8, 0.6
SHAPE = (3, 3, 2, 4, 4)
EVERYTHING = Guidance(
    scale=6.0,
    oscillate=Oscillate(constant=0.2),
    interval=(0.1, 0.9),
    zero_star=ZeroStar(still=0.04),
    rescale=0.7,
    threshold=DynamicThreshold(percentile=99.0),
)


def at(index: int = 0, count: int = 10) -> Step:
    return Step(index=index, count=count, t=1 - index / count, logsnr=0.0)


def predictions() -> tuple[Tensor, Tensor, Tensor]:
    """x̂ with the prompt, x̂ without, and z."""
    generator = torch.Generator().manual_seed(0)
    cond, uncond, z = torch.randn(3, *SHAPE, generator=generator, dtype=torch.float64)
    return cond, uncond, z


def guided(guidance: Guidance, step: Step | None = None) -> Tensor:
    cond, uncond, z = predictions()
    return guidance(cond, uncond, z=z, alpha=ALPHA, sigma=SIGMA, step=step or at(5))


def test_scale_one_needs_no_unconditional_prediction_and_is_the_conditional() -> None:
    cond, _, z = predictions()
    guidance = Guidance(scale=1.0)
    assert not any(guidance.needs_uncond(at(i)) for i in range(10))
    assert guidance(cond, None, z=z, alpha=ALPHA, sigma=SIGMA, step=at()) is cond


def test_scale_zero_is_the_unconditional_and_the_rest_is_linear() -> None:
    cond, uncond, _ = predictions()
    torch.testing.assert_close(guided(Guidance(scale=0.0)), uncond)
    torch.testing.assert_close(guided(Guidance(scale=3.0)), uncond + 3 * (cond - uncond))


@pytest.mark.parametrize("space", ["eps", "v", "velocity"])
def test_guidance_is_the_same_in_every_space(space: str) -> None:
    cond, uncond, z = predictions()
    alpha, sigma = (torch.full((1, 1, 1, 1, 1), level).double() for level in (ALPHA, SIGMA))

    def carried(x: Tensor) -> Tensor:
        eps = to_eps("x", x, z, alpha, sigma)
        torch.testing.assert_close(diffuse(x, eps, alpha, sigma), z)
        return {"eps": eps, "v": alpha * eps - sigma * x, "velocity": eps - x}[space]

    pred = carried(uncond) + 4 * (carried(cond) - carried(uncond))
    torch.testing.assert_close(to_x(space, pred, z, alpha, sigma), guided(Guidance(scale=4.0)))


def test_a_missing_prediction_is_refused() -> None:
    cond, _, z = predictions()
    with pytest.raises(ValueError, match=r"scale 2 at step 5 needs x̂ without the prompt"):
        Guidance(scale=2.0)(cond, None, z=z, alpha=ALPHA, sigma=SIGMA, step=at(5))


def test_an_interval_guides_inside_and_not_outside() -> None:
    guidance = Guidance(scale=5.0, interval=(0.25, 0.75))
    assert [i for i in range(10) if guidance.needs_uncond(at(i))] == [3, 4, 5, 6, 7]
    assert guided(guidance, at(0)) is not None
    torch.testing.assert_close(guided(guidance, at(0)), predictions()[0])
    torch.testing.assert_close(guided(guidance, at(5)), guided(Guidance(scale=5.0)))


def test_oscillation_is_constant_first_and_then_high_and_low_in_turn() -> None:
    guidance = Guidance(scale=15.0, oscillate=Oscillate(constant=0.3, low=1.0))
    scales = [guidance.scale_at(at(i)) for i in range(8)]
    assert scales == [15, 15, 15, 15, 1, 15, 1, 15]
    assert [guidance.needs_uncond(at(i)) for i in range(8)] == [scale > 1 for scale in scales]


def test_zero_star_projects_by_the_optimal_multiple() -> None:
    cond, uncond, z = predictions()
    still = z / (ALPHA + SIGMA)
    vc, vu = still - cond, still - uncond
    s = (vc * vu).sum((1, 2, 3, 4)) / (vu * vu).sum((1, 2, 3, 4))
    s = s[:, None, None, None, None]
    wanted = still - ((1 - 3.0) * s * vu + 3.0 * vc)
    torch.testing.assert_close(guided(Guidance(scale=3.0, zero_star=ZeroStar())), wanted)
    left = vc - ZeroStar().project(vc, vu)
    torch.testing.assert_close((left * vu).sum((1, 2, 3, 4)), torch.zeros(3).double())


def test_zero_star_with_parallel_velocities_is_the_conditional() -> None:
    cond, _, z = predictions()
    still = z / (ALPHA + SIGMA)
    uncond = still - 0.3 * (still - cond)
    made = Guidance(scale=7.0, zero_star=ZeroStar())(
        cond, uncond, z=z, alpha=ALPHA, sigma=SIGMA, step=at(5)
    )
    torch.testing.assert_close(made, cond)


def test_zero_star_stands_still_in_its_first_steps() -> None:
    guidance = Guidance(scale=3.0, zero_star=ZeroStar(still=0.04))
    assert [guidance.needs_uncond(at(i, 50)) for i in range(4)] == [False, False, True, True]
    made = guided(guidance, at(0, 50))
    z = predictions()[2]
    torch.testing.assert_close(made * (ALPHA + SIGMA), z)  # z/(α + σ) − x̂ = 0


def test_rescale_gives_back_the_conditional_spread() -> None:
    cond, _, _ = predictions()
    plain = guided(Guidance(scale=8.0))
    full, half, none = (guided(Guidance(scale=8.0, rescale=r)) for r in (1.0, 0.5, 0.0))
    torch.testing.assert_close(full.flatten(1).std(1), cond.flatten(1).std(1))
    torch.testing.assert_close(half, (full + plain) / 2)
    torch.testing.assert_close(none, plain)


def test_dynamic_threshold_holds_pixels_within_one() -> None:
    generator = torch.Generator().manual_seed(1)
    small = torch.rand(SHAPE, generator=generator) - 0.5
    torch.testing.assert_close(DynamicThreshold()(small), small)
    made = DynamicThreshold(percentile=90.0)(8 * small)
    assert made.abs().max() == 1
    share = (made.abs() == 1).float().flatten(1).mean(1)
    torch.testing.assert_close(share, torch.full((3,), 0.1), atol=0.011, rtol=0)
    ratio = made / (8 * small)
    inside = made[0].abs() < 1
    torch.testing.assert_close(ratio[0][inside], ratio[0][inside][:1].expand(int(inside.sum())))


def test_a_ceiling_of_one_is_the_static_threshold() -> None:
    x = 3 * torch.randn(SHAPE, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(DynamicThreshold(ceiling=1.0)(x), x.clamp(-1, 1))


@pytest.mark.parametrize("index", range(10))
def test_no_sample_depends_on_the_rest_of_the_batch(index: int) -> None:
    cond, uncond, z = (prediction.float() for prediction in predictions())
    levels = torch.tensor([0.9, 0.5, 0.2])[:, None, None, None, None].expand(3, 1, 2, 1, 1)

    def run(rows: slice) -> Tensor:
        return EVERYTHING(
            cond[rows],
            uncond[rows],
            z=z[rows],
            alpha=levels[rows],
            sigma=1 - levels[rows],
            step=at(index),
        )

    whole = run(slice(0, 3))
    for i in range(3):
        assert torch.equal(run(slice(i, i + 1)), whole[i : i + 1])


#: One sample with given frames, one with a given region, one all given.
GIVEN = torch.zeros(3, 1, 2, 4, 4, dtype=torch.bool)
GIVEN[0, :, 1] = True
GIVEN[1, :, :, 1:3, :2] = True
GIVEN[2] = True
PARTS = {
    "zero star": Guidance(scale=6.0, zero_star=ZeroStar()),
    "rescale": Guidance(scale=6.0, rescale=0.7),
    "threshold": Guidance(scale=6.0, threshold=DynamicThreshold(percentile=90.0)),
    "everything": EVERYTHING,
}


def freely(guidance: Guidance, free: Tensor | None, cond: Tensor, uncond: Tensor) -> Tensor:
    z = predictions()[2]
    return guidance(cond, uncond, z=z, alpha=ALPHA, sigma=SIGMA, step=at(6), free=free)


@pytest.mark.parametrize("junk", [0.0, 40.0, torch.inf, torch.nan])
@pytest.mark.parametrize("part", PARTS)
def test_what_the_network_returns_at_given_positions_moves_no_free_one(
    part: str, junk: float
) -> None:
    cond, uncond, _ = predictions()
    given = GIVEN.expand_as(cond)
    made = freely(PARTS[part], ~GIVEN, cond, uncond)
    other = freely(
        PARTS[part], ~GIVEN, cond.masked_fill(given, junk), uncond.masked_fill(given, -junk)
    )
    assert torch.equal(made[~given], other[~given])


@pytest.mark.parametrize("part", PARTS)
def test_a_sample_that_is_all_free_is_guided_as_without_a_mask(part: str) -> None:
    cond, uncond, _ = predictions()
    everywhere = torch.ones(1, 1, 1, 1, 1, dtype=torch.bool)
    without = freely(PARTS[part], None, cond, uncond)
    assert torch.equal(freely(PARTS[part], everywhere, cond, uncond), without)
    mixed = torch.cat([~GIVEN[:1], torch.ones_like(GIVEN[1:])])
    torch.testing.assert_close(freely(PARTS[part], mixed, cond, uncond)[1:], without[1:])


@pytest.mark.parametrize("part", PARTS)
def test_free_frames_are_guided_as_the_clip_of_these_frames_alone(part: str) -> None:
    cond, uncond, z = predictions()
    free = torch.tensor([True, False]).view(1, 1, 2, 1, 1)
    made = freely(PARTS[part], free, cond, uncond)[:, :, :1]
    alone = PARTS[part](
        cond[:, :, :1], uncond[:, :, :1], z=z[:, :, :1], alpha=ALPHA, sigma=SIGMA, step=at(6)
    )
    torch.testing.assert_close(made, alone)


@pytest.mark.parametrize("part", PARTS)
def test_a_sample_with_nothing_free_stays_finite(part: str) -> None:
    cond, uncond, _ = predictions()
    assert freely(PARTS[part], ~GIVEN, cond, uncond)[2].isfinite().all()


def test_another_scale_keeps_everything_else() -> None:
    other = EVERYTHING.with_scale(2.0)
    assert other.scale == 2.0
    assert EVERYTHING.scale == 6.0
    assert other.threshold is EVERYTHING.threshold
    assert torch.equal(guided(other.with_scale(6.0)), guided(EVERYTHING))


def test_impossible_guidance_is_refused() -> None:
    for build, rule in (
        (lambda: Guidance(interval=(0.9, 0.1)), r"interval .* got \(0\.9, 0\.1\)"),
        (lambda: Guidance(interval=(0.5,)), "interval"),
        (lambda: Guidance(rescale=2.0), "rescale must lie in .* got 2"),
        (lambda: Oscillate(constant=3.0), "share of the steps, in .*, got 3"),
        (lambda: ZeroStar(still=1.0), "share of the steps, in .*, got 1"),
        (lambda: DynamicThreshold(percentile=0.0), "percentile .* got 0"),
        (lambda: DynamicThreshold(ceiling=0.5), "at least 1, got 0.5"),
    ):
        with pytest.raises(ValueError, match=rule):
            build()
