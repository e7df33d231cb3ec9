"""The one contract of every stage: losses, conditions, sampling."""

from functools import partial

import pytest
import torch

from cascade import conditioning
from cascade.grid import Grid
from cascade.nn.dit import DiT
from cascade.video import to_float
from stages.condition import scalars
from stages.measure import regenerate

STAGES = ["demo/base", "demo/tsr1", "demo/ssr1"]
AUGMENT = {
    "_target_": "cascade.diffusion.augment.NoiseAugment",
    "schedule": {"_target_": "cascade.diffusion.schedule.RectifiedFlow"},
}
GRID = Grid(frames=8, height=16, width=16, fps=8)


def low_for(stage, seed=0):
    x = torch.randn(1, 3, *GRID.shape, generator=torch.Generator().manual_seed(seed)).clamp(-1, 1)
    return stage.kind.reduce(x)


@pytest.mark.parametrize("choice", STAGES)
def test_a_samples_loss_does_not_depend_on_its_batch(build, batch, choice):
    stage = build(choice)
    together, *_ = stage.losses(batch([3, 9, 4]), purpose="train")
    for i, position in enumerate([3, 9, 4]):
        alone, *_ = stage.losses(batch([position]), purpose="train")
        torch.testing.assert_close(alone[0], together[i], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("choice", STAGES)
def test_every_draw_is_keyed_by_position_and_purpose(build, batch, choice):
    stage = build(choice)
    one, level, *_ = stage.losses(batch([3]), purpose="train")
    again, same, *_ = stage.losses(batch([3]), purpose="train")
    other, different, *_ = stage.losses(batch([3]), purpose="val")
    torch.testing.assert_close(one, again, rtol=0, atol=0)
    assert level == same
    assert level != different
    assert one != other


@pytest.mark.parametrize("choice", STAGES)
def test_all_parameters_learn(build, batch, choice):
    stage = build(choice)
    stage.losses(batch([0, 1, 2, 3]), purpose="train").loss.mean().backward()
    idle = [name for name, p in stage.named_parameters() if p.grad is None or not p.grad.any()]
    assert idle == []


def test_given_whole_frames_are_clean_told_so_and_cost_nothing(build, batch):
    stage = build("demo/base", train={"modes": {"only": "first_last"}})
    told = {}

    def spy(z, logsnr, cond):
        told.update(z=z, logsnr=logsnr, cond=cond)
        return torch.zeros_like(z)

    stage.predict = spy
    clip = batch([5])
    x = to_float(clip["video"])
    loss, drawn, *_ = stage.losses(clip, purpose="train")
    ends, top = [0, -1], stage.diffusion.schedule.logsnr_max
    torch.testing.assert_close(told["z"][:, :, ends], x[:, :, ends])
    torch.testing.assert_close(told["cond"].given[:, :, ends], x[:, :, ends])
    assert (told["logsnr"][:, ends] == top).all()
    assert (told["logsnr"][:, 1:-1] == drawn[:, None]).all()
    # A network that answers 0 is wrong by x on the frames that were not given, and on no other.
    sigma = stage.diffusion.schedule.sigma(drawn).clamp(min=0.05)
    expected = x[:, :, 1:-1].square().mean() / sigma**2
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-5)


def test_dropped_captions_are_the_empty_caption(build, batch):
    stage = build("demo/base", train={"text_dropout": 0.4})
    seen = []
    text = stage.text.forward
    stage.text.forward = lambda captions, known: (seen.extend(captions), text(captions, known))[1]
    for first in range(0, 64, 16):
        stage.losses(batch(list(range(first, first + 16))), purpose="train")
    dropped = sum(caption == "" for caption in seen)
    assert 0.25 * 64 < dropped < 0.55 * 64
    assert all(caption in ("", f"clip number {i}") for i, caption in enumerate(seen))


def test_tsr_conditions_on_held_frames(build, batch):
    stage = build("demo/tsr1", augment={"max_t": 1e-6})
    x = to_float(batch([1])["video"])
    cond = stage.noise(batch([1]), purpose="train").condition
    for frame in range(8):
        kept = frame - frame % 2
        torch.testing.assert_close(cond.low[:, :, frame], x[:, :, kept], atol=0.07, rtol=0)


def test_ssr_conditions_on_the_same_frames_at_low_resolution(build, batch):
    stage = build("demo/ssr1", augment={"max_t": 1e-6})
    x = to_float(batch([1])["video"])
    cond = stage.noise(batch([1]), purpose="train").condition
    assert cond.low.shape == x.shape
    again = stage.kind.reduce(cond.low)
    torch.testing.assert_close(again.mean((3, 4)), x.mean((3, 4)), atol=0.05, rtol=0)
    assert cond.low.std() < 0.7 * x.std()


def test_clips_of_several_shapes_packed_cost_what_each_costs_alone(build, batch):
    stage = build("demo/base")
    shapes = [(8, 16, 16), (4, 8, 32), (1, 16, 16), (8, 24, 8)]
    alone = [batch([i], shape) for i, shape in enumerate(shapes)]
    packed = {
        "videos": [one["video"][0] for one in alone],
        **{k: torch.cat([one[k] for one in alone]) for k in ("fps", "zoom", "position")},
        "caption": [one["caption"][0] for one in alone],
        "weight": 0.5,
    }
    losses, drawn, *_ = stage.losses(packed, purpose="train")
    for i, one in enumerate(alone):
        loss, logsnr, *_ = stage.losses(one, purpose="train")
        torch.testing.assert_close(losses[i : i + 1], loss, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(drawn[i : i + 1], logsnr)
    losses.mean().backward()
    with pytest.raises(ValueError, match="Hourglass does not pack clips of several shapes"):
        build("demo/ssr1").losses(packed, purpose="train")


def test_a_base_knows_the_length_of_its_clips(build):
    stage = build("demo/base")
    assert stage.net.trained_frames == stage.codec.shape(stage.target.shape)[0]


def test_positions_of_a_stage_that_runs_in_windows_are_counted(build):
    stage = build("demo/tsr1")
    stage._build = partial(DiT, width=64, depth=1, patch=(2, 4, 4))
    assert stage.new_net().trained_frames is None


def test_zoom_is_told_to_the_base(build, batch):
    stage = build("demo/base")
    seen = []
    stage.net.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[4]))
    for zoom in (1.0, 2.0):
        stage.losses(batch([1]) | {"zoom": torch.tensor([zoom])}, purpose="train")
    told = (seen[1] - seen[0])[0]
    assert told[stage.kind.scalars.index("zoom")] == pytest.approx(0.6931, abs=1e-3)
    assert (told != 0).sum() == 1


def test_the_augmentation_level_is_told_to_the_network(build):
    stage = build("demo/ssr1")
    low = low_for(stage)
    options = {"grid": GRID, "seeds": [0], "low": low, "steps": 1}
    clean = stage.sample(["a"], low_logsnr=20.0, **options)
    noisy = stage.sample(["a"], low_logsnr=0.0, **options)
    assert (clean - noisy).abs().max() > 1e-3
    # The same pixels with another level told: only adaLN can make the difference.
    quiet = build("demo/ssr1")
    fps = torch.tensor([8.0])
    told = [scalars(quiet.kind.scalars, GRID, fps, torch.tensor([v])) for v in (0.0, 8.0)]
    x = torch.randn(1, 10, *GRID.shape)
    text = quiet.text(["a"])
    one, other = (quiet.net(x, torch.zeros(1, 8), text.tokens, text.mask, one) for one in told)
    assert (one - other).abs().max() > 1e-4


@pytest.mark.parametrize("choice", STAGES)
def test_given_frames_come_back_unchanged(build, choice):
    stage = build(choice)
    frames = torch.rand(1, 3, 2, 16, 16) * 2 - 1
    given = conditioning.fill_in(frames, [0, 5], 8)
    video = stage.sample(
        ["a"], grid=GRID, seeds=[0], low=low_for(stage), given=given, guidance_scale=3.0
    )
    torch.testing.assert_close(video[:, :, [0, 5]], frames, rtol=0, atol=0)
    assert (video[:, :, 1] - frames[:, :, 0]).abs().max() > 1e-3


@pytest.mark.parametrize("choice", STAGES)
def test_a_given_region_comes_back_unchanged(build, choice):
    stage = build(choice)
    picture = torch.rand(1, 3, *GRID.shape) * 2 - 1
    mask = torch.zeros(1, 1, *GRID.shape)
    mask[..., :8, 4:12] = 1
    given = conditioning.region(picture, mask)
    video = stage.sample(["a"], grid=GRID, seeds=[0], low=low_for(stage), given=given)
    kept = mask.expand_as(video) > 0
    torch.testing.assert_close(video[kept], picture[kept], rtol=0, atol=0)
    assert (video[~kept] - picture[~kept]).abs().max() > 1e-2


@pytest.mark.parametrize("choice", STAGES)
def test_a_sample_does_not_depend_on_its_batch(build, choice):
    stage = build(choice)
    low = None
    if stage.kind.takes_low:
        low = torch.cat([low_for(stage, seed) for seed in (7, 3)])
    both = stage.sample(["a red ball", "雪"], grid=GRID, seeds=[7, 3], low=low, guidance_scale=4.0)
    for i, (caption, seed) in enumerate([("a red ball", 7), ("雪", 3)]):
        one = None if low is None else low[i : i + 1]
        alone = stage.sample([caption], grid=GRID, seeds=[seed], low=one, guidance_scale=4.0)
        assert (alone[0] - both[i]).abs().max() <= 2 / 255


@pytest.mark.parametrize("choice", STAGES)
def test_caption_and_seed_change_the_video(build, choice):
    stage = build(choice)
    low = low_for(stage)
    one, caption, seed = (
        stage.sample([c], grid=GRID, seeds=[s], low=low, steps=2)
        for c, s in (("a", 0), ("quite another thing", 0), ("a", 1))
    )
    assert (one - caption).abs().max() > 1e-4
    assert (one - seed).abs().max() > 1e-3


def test_a_still_image_is_a_clip_of_one_frame(build, batch):
    for choice in STAGES:
        stage = build(choice)
        losses, *_ = stage.losses(batch([0, 1], (1, 16, 16)), purpose="train")
        assert losses.isfinite().all()


def test_sampling_refuses_what_does_not_fit(build):
    base, ssr = build("demo/base"), build("demo/ssr1")
    with pytest.raises(ValueError, match="frames must be a multiple of 2, got 7"):
        base.sample(["a"], grid=Grid(frames=7, height=16, width=16, fps=8), seeds=[0])
    with pytest.raises(ValueError, match="takes no video of a previous stage"):
        base.sample(["a"], grid=GRID, seeds=[0], low=torch.zeros(1, 3, *GRID.shape))
    with pytest.raises(ValueError, match="needs video of a previous stage"):
        ssr.sample(["a"], grid=GRID, seeds=[0])
    with pytest.raises(ValueError, match=r"must give \(8, 8, 8\), got \(8, 16, 16\)"):
        ssr.sample(["a"], grid=GRID, seeds=[0], low=torch.zeros(1, 3, *GRID.shape))


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ("demo/tsr1", "TemporalSR: factor multiplies the frame rate and must be at least 2, got 1"),
        ("demo/ssr1", "SpatialSR: factor multiplies height and width .* at least 2, got 1"),
    ],
)
def test_a_factor_of_one_is_refused(build, choice, message):
    with pytest.raises(Exception, match=message):
        build(choice, kind={"factor": 1})


def test_a_stage_with_one_before_it_needs_an_augmentation(build):
    with pytest.raises(Exception, match="ssr1: a stage of kind SpatialSR needs an augmentation"):
        build("demo/ssr1", augment=None)
    with pytest.raises(Exception, match="base: a stage of kind Base has no previous stage"):
        build("demo/base", augment=AUGMENT)


def test_ssr_is_measured_beside_bicubic_and_tsr_on_its_new_frames(build, batch):
    clip = batch([0, 1])
    x = to_float(clip["video"])
    for choice, count in (("demo/ssr1", 8), ("demo/tsr1", 4)):
        stage = build(choice)
        figures = stage.measure(clip)
        assert set(figures) == {
            f"{given}/{way}{name}"
            for given in ("true", "made")
            for way in ("", "plain_")
            for name in ("psnr", "ssim")
        }
        assert stage.kind.new_frames(x).shape[2] == count
    torch.testing.assert_close(build("demo/tsr1").kind.new_frames(x), x[:, :, 1::2])


def test_remaking_starts_from_the_clip(build, batch):
    stage = build("demo/base")
    x = to_float(batch([2])["video"])
    near = regenerate(stage, x, ["a"], seeds=[0], start=0.02)
    far = regenerate(stage, x, ["a"], seeds=[0], start=1.0)
    assert near.shape == x.shape
    assert (near - far).abs().max() > 1e-2


@pytest.mark.parametrize("choice", STAGES)
def test_the_output_at_given_frames_does_not_move_the_free_ones(build, choice):
    """Guidance with every statistic: a network's untrained output at given frames has no effect."""
    guidance = {
        "scale": 5.0,
        "rescale": 0.7,
        "zero_star": {"_target_": "cascade.diffusion.guidance.ZeroStar", "still": 0.0},
        "threshold": {"_target_": "cascade.diffusion.guidance.DynamicThreshold"},
    }
    stage = build(choice, sampling={"guidance": guidance})
    given = conditioning.fill_in(torch.rand(1, 3, 2, 16, 16) * 2 - 1, [0, 5], 8)

    def video(wild):
        def predict(z, _logsnr, cond):
            out = torch.tanh(z) + 0.1 * cond.text.tokens.mean()
            return out + wild * (given.mask > 0) * torch.sign(z)

        stage.predict = predict
        return stage.sample(["a"], grid=GRID, seeds=[0], low=low_for(stage), given=given, steps=3)

    torch.testing.assert_close(video(0.0), video(50.0), rtol=0, atol=0)


@pytest.mark.parametrize("choice", STAGES)
def test_the_last_call_of_a_guided_step_has_the_caption(build, choice):
    """As the proof reads it (cascade/proof/both_sides.py)."""
    stage = build(choice)
    texts = []

    def predict(z, _logsnr, cond):
        texts.append(cond.text.tokens)
        return torch.zeros_like(z)

    stage.predict = predict
    request = {"grid": GRID, "seeds": [0], "low": low_for(stage), "steps": 1}
    stage.sample(["a"], **request, guidance_scale=2.0)
    (without, last) = texts
    assert torch.equal(without, stage.text([""]).tokens)
    assert torch.equal(last, stage.text(["a"]).tokens)


def test_a_window_of_a_video_starts_from_the_noise_of_the_whole(build):
    stage = build("demo/tsr1")
    starts = []
    for frames in (8, 4):
        grid = Grid(frames=frames, height=16, width=16, fps=8)
        stage.predict = lambda z, _logsnr, _cond: starts.append(z) or torch.zeros_like(z)
        low = low_for(stage)[:, :, : frames // 2]
        stage.sample(["a"], grid=grid, seeds=[3], low=low, steps=1, guidance_scale=1.0)
    torch.testing.assert_close(starts[0][:, :, :4], starts[1], rtol=0, atol=0)
