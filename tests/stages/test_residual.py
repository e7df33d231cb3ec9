"""A stage that predicts the difference from the interpolated video of the previous stage."""

import hydra
import pytest
import torch
from hydra.errors import InstantiationException
from omegaconf import OmegaConf

from cascade import conditioning
from cascade.grid import Grid
from cascade.shrink import shrink
from cascade.video import every
from stages.noised import weighted
from tests.composed import stage_config

GRID = Grid(frames=8, height=16, width=16, fps=8)
RESIDUAL = ["demo/tsr1", "demo/ssr1"]


def untrained(choice, **changes):
    """A shrunk stage as training first meets it."""
    small = shrink(stage_config(choice))
    merged = OmegaConf.to_container(OmegaConf.merge(small, changes))
    stage = hydra.utils.instantiate(merged, _convert_="all")
    stage.configure_model()
    return stage


def low_for(stage, *, seed=0, frames=8):
    draw = torch.Generator().manual_seed(seed)
    x = torch.rand(2, 3, frames, GRID.height, GRID.width, generator=draw) * 2 - 1
    return stage.kind.reduce(x)


@pytest.mark.parametrize("choice", RESIDUAL)
def test_an_untrained_stage_returns_the_baseline_at_any_noise_of_low(choice):
    stage = untrained(choice, residual=0.1)
    low = low_for(stage)
    for level in (None, -2.0, 2.0, 9.0):
        for steps in (1, 4):
            video = stage.sample(
                ["a", "b"], grid=GRID, seeds=[0, 1], low=low, steps=steps, low_logsnr=level
            )
            torch.testing.assert_close(video, stage.kind.baseline(low), rtol=0, atol=1e-6)


@pytest.mark.parametrize("choice", RESIDUAL)
def test_an_untrained_stage_has_the_loss_of_the_baseline(batch, choice):
    stage = untrained(choice, residual=0.1)
    losses = stage.losses(batch([0, 1, 2]), purpose="train")
    noised = stage.noise(batch([0, 1, 2]), purpose="train")
    plain = stage.kind.baseline(stage.kind.reduce(noised.example.x))
    torch.testing.assert_close(losses.loss, weighted(plain, noised, stage.diffusion))


def test_an_untrained_temporal_stage_returns_the_frames_of_the_stage_before():
    stage = untrained("demo/tsr1", residual=0.1)
    low = low_for(stage)
    video = stage.sample(["a", "b"], grid=GRID, seeds=[0, 1], low=low)
    torch.testing.assert_close(every(video, 2), low, rtol=0, atol=1e-6)


def test_a_frame_that_low_and_the_prompt_both_hold_is_returned(build):
    stage = build("demo/tsr1", residual=0.1)
    low = low_for(stage)
    given = conditioning.fill_in(low[:, :, [0, 3]], [0, 6], GRID.frames)
    video = stage.sample(["a", "b"], grid=GRID, seeds=[0, 1], low=low, given=given)
    torch.testing.assert_close(video[:, :, [0, 6]], low[:, :, [0, 3]], rtol=0, atol=0)


@pytest.mark.parametrize("choice", RESIDUAL)
def test_the_difference_from_the_baseline_is_proportional_to_the_residuals_size(build, choice):
    moved = {}
    for residual in (0.1, 0.2):
        stage = build(choice, residual=residual)
        low = low_for(stage) / 2
        video = stage.sample(["a", "b"], grid=GRID, seeds=[0, 1], low=low, steps=1)
        moved[residual] = video - stage.kind.baseline(low)
    inside = (moved[0.2].abs() < 0.4) & (moved[0.1].abs() > 1e-3)
    assert inside.any()
    torch.testing.assert_close(moved[0.2][inside], 2 * moved[0.1][inside], rtol=1e-3, atol=1e-5)


def test_without_low_its_interpolation_is_another_clips_too(build, batch):
    stage = build("demo/tsr1", residual=0.1)
    noised = stage.noise(batch([0, 1]), purpose="train")
    worse, _ = stage.loss_without(noised, noised.rolled(), "low")
    own = stage.predict(noised.z, noised.logsnr, noised.condition)
    assert (worse > weighted(own, noised, stage.diffusion)).all()


@pytest.mark.parametrize(
    ("choice", "changes", "message"),
    [
        ("demo/base", {"residual": 0.1}, "kind Base"),
        ("demo/tsr1", {"residual": 0.0}, "got residual 0.0"),
        (
            "demo/tsr1",
            {"residual": 0.1, "diffusion": {"target": "velocity"}},
            "diffusion.target velocity; set stage.residual=null",
        ),
    ],
)
def test_a_residual_without_meaning_is_refused(choice, changes, message):
    with pytest.raises(InstantiationException, match=message):
        untrained(choice, **changes)
