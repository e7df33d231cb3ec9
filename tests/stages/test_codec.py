"""Diffusion in latents: the laws that hold for a codec that is exactly invertible."""

import pytest
import torch
from torch.nn.functional import interpolate

from cascade import conditioning
from cascade.codec import Pixels
from cascade.conditioning import Given
from cascade.grid import Grid
from cascade.video import to_float
from tests.stages.invertible import Cells

STAGES = ["demo/base", "demo/tsr1", "demo/ssr1"]
FACTORS = [(1, 4, 4), (2, 2, 2)]
GRID = Grid(frames=8, height=16, width=16, fps=8)


@pytest.fixture(params=FACTORS, ids=str)
def codec(request):
    return Cells(factor=request.param)


def low_for(stage, seed=0):
    x = torch.randn(1, 3, *GRID.shape, generator=torch.Generator().manual_seed(seed)).clamp(-1, 1)
    return stage.kind.reduce(x)


def test_the_test_codec_is_invertible(codec):
    x = torch.randn(1, 3, *GRID.shape)
    assert torch.equal(codec.decode(codec.encode(x)), x)


@pytest.mark.parametrize("choice", STAGES)
def test_every_kind_trains_and_samples_on_the_pixel_grid(build, batch, codec, choice):
    stage = build(choice, codec=codec)
    clips = batch([0, 1], GRID.shape)
    noised = stage.noise(clips, purpose="train")
    latents = codec.shape(GRID.shape)
    parts = (noised.z, noised.condition.given, noised.condition.low)
    assert all(one.shape == (2, codec.channels, *latents) for one in parts if one is not None)
    assert noised.condition.mask.shape == (2, codec.cell, *latents)
    assert noised.logsnr.shape == (2, latents[0])
    losses = stage.losses(clips, purpose="train")
    losses.loss.mean().backward()
    assert losses.loss.isfinite().all()
    video = stage.sample(["a"], grid=GRID, seeds=[0], low=low_for(stage), steps=2)
    assert video.shape == (1, 3, *GRID.shape)


@pytest.mark.parametrize("choice", STAGES)
def test_the_loss_of_a_zero_network_is_that_in_pixels(build, batch, codec, choice):
    text = {"train": {"modes": {"only": "text"}}}
    clips = batch([3, 4], GRID.shape)
    latent = build(choice, codec=codec, **text).losses(clips, purpose="train")
    pixels = build(choice, codec=Pixels(), **text).losses(clips, purpose="train")
    torch.testing.assert_close(latent.logsnr, pixels.logsnr, rtol=0, atol=0)
    torch.testing.assert_close(latent.zero, pixels.zero, rtol=1e-5, atol=0)


@pytest.mark.parametrize("choice", ["demo/tsr1", "demo/ssr1"])
def test_low_is_reduced_and_expanded_in_pixels_then_encoded_then_noised(
    build, batch, codec, choice
):
    stage = build(choice, codec=codec, augment={"max_t": 1e-6})
    clips = batch([1], GRID.shape)
    low = stage.noise(clips, purpose="train").condition.low
    x = to_float(clips["video"])
    wanted = stage.kind.expand(stage.kind.reduce(x))
    torch.testing.assert_close(codec.decode(low), wanted, atol=0.07, rtol=0)
    assert (codec.decode(low) - wanted).abs().max() > 1e-5


@pytest.mark.parametrize("choice", STAGES)
def test_scalars_are_those_of_the_pixels(build, batch, codec, choice):
    clips = batch([1, 2], GRID.shape)
    latent, pixels = (
        build(choice, codec=one).noise(clips, purpose="train").condition.scalars
        for one in (codec, Pixels())
    )
    torch.testing.assert_close(latent, pixels, rtol=0, atol=0)


@pytest.mark.parametrize("choice", STAGES)
def test_a_walk_in_latents_is_the_walk_in_pixels(build, codec, choice):
    """A network that works on each value by itself cannot tell a codec that moves values."""
    given = conditioning.fill_in(torch.rand(1, 3, 2, 16, 16) * 2 - 1, [0, 1], 8)

    def video(one):
        stage = build(choice, codec=one)
        stage.predict = lambda z, _logsnr, cond: 0.5 * z if cond.low is None else z + cond.low

        def noise(purpose, _frames, _shape):
            generator = torch.Generator().manual_seed(len(purpose))
            return one.encode(torch.randn(1, 3, *GRID.shape, generator=generator))

        return stage.sample(
            ["a"],
            grid=GRID,
            seeds=[0],
            low=low_for(stage),
            given=given,
            steps=3,
            guidance_scale=2.0,
            noise=noise,
        )

    torch.testing.assert_close(video(codec), video(Pixels()), rtol=0, atol=1e-5)


def test_the_mask_keeps_its_pixels(codec):
    mask = (torch.rand(1, 1, *GRID.shape) > 0.5).float()
    folded = codec.fold(mask)
    assert folded.sum() == mask.sum()
    t, h, w = codec.factor
    cell = mask[0, 0, :t, h : 2 * h, 2 * w : 3 * w]
    torch.testing.assert_close(folded[0, :, 0, 1, 2], cell.flatten())


def test_a_latent_position_is_fixed_only_where_all_its_pixels_are_given(build, codec):
    stage = build("demo/base", codec=codec)
    mask = torch.zeros(1, 1, *GRID.shape)
    mask[:, :, :3] = 1  # one frame and a half of the codec's of factor 2
    mask[..., 5, :, :7] = 1
    frames = torch.rand(1, 3, *GRID.shape) * mask
    seen = {}
    stage.predict = lambda z, logsnr, cond: seen.update(z=z, logsnr=logsnr, cond=cond) or z * 0
    stage.sample(["a"], grid=GRID, seeds=[0], given=Given(frames, mask), steps=1)
    least = -interpolate(-mask, scale_factor=None, size=codec.shape(GRID.shape), mode="area")
    whole = least[:, 0] > 1 - 1e-6
    assert torch.equal(seen["cond"].fixed[:, 0], whole)
    frames_whole = whole.all(dim=(2), keepdim=False).all(dim=2)
    assert torch.equal(seen["logsnr"] == stage.diffusion.schedule.logsnr_max, frames_whole)
    assert frames_whole.sum() == (3 if codec.factor[0] == 1 else 1)


@pytest.mark.parametrize("choice", STAGES)
def test_given_pixels_come_back_whatever_part_of_a_latent_they_are(build, codec, choice):
    stage = build(choice, codec=codec)
    mask = torch.zeros(1, 1, *GRID.shape)
    mask[:, :, [0, 5]] = 1
    mask[..., 3:9, 5:6] = 1
    picture = torch.rand(1, 3, *GRID.shape) * 2 - 1
    given = Given(picture * mask, mask)
    video = stage.sample(["a"], grid=GRID, seeds=[0], low=low_for(stage), given=given, steps=2)
    kept = mask.expand_as(video) > 0
    assert torch.equal(video[kept], picture[kept])


def test_packed_clips_cost_what_each_costs_alone(build, batch, codec):
    stage = build("demo/base", codec=codec)
    shapes = [(8, 16, 16), (4, 16, 32)]
    alone = [batch([i], shape) for i, shape in enumerate(shapes)]
    packed = {
        "videos": [one["video"][0] for one in alone],
        **{k: torch.cat([one[k] for one in alone]) for k in ("fps", "zoom", "position")},
        "caption": [one["caption"][0] for one in alone],
    }
    losses = stage.losses(packed, purpose="train")
    for i, one in enumerate(alone):
        loss = stage.losses(one, purpose="train").loss
        torch.testing.assert_close(losses.loss[i : i + 1], loss, rtol=1e-4, atol=1e-5)


def test_a_grid_that_the_codec_does_not_divide_is_refused(build):
    stage = build("demo/base", codec=Cells(factor=(1, 3, 3)))
    with pytest.raises(ValueError, match="stage base: height must be a multiple of 12, got 16"):
        stage.check_grid(GRID)
    with pytest.raises(ValueError, match="stage base: height must be a multiple of 12, got 16"):
        stage.sample(["a"], grid=GRID, seeds=[0])


def test_an_untrained_forward_pass_is_counted_in_latents(build, codec):
    stage = build("demo/base", codec=codec)
    out = stage.dry_forward(GRID.shape)()
    assert out.shape == (1, codec.channels, *codec.shape(GRID.shape))


def test_a_threshold_of_pixels_is_refused_in_latents(build, codec):
    threshold = {"_target_": "cascade.diffusion.guidance.DynamicThreshold"}
    with pytest.raises(Exception, match="latents of Cells are unbounded"):
        build("demo/base", codec=codec, sampling={"guidance": {"threshold": threshold}})
