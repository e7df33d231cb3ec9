"""The pipeline: trained stages joined, the same video for the same seed, clear refusals."""

import json
from functools import partial

import pytest
import torch
from omegaconf import OmegaConf

from cascade import conditioning
from cascade.bundle import BundleError
from cascade.call_checks import check_output
from cascade.cascade_bundle import save_cascade
from cascade.chain import check_run, check_setting
from cascade.conditioning import Given, to_grid
from cascade.generate import fingerprint, settings
from cascade.grid import Grid
from cascade.opening import open_cascade
from cascade.pipeline import Cascade
from cascade.prompts import check_text
from cascade.video import resize

CHAIN = {"name": "demo", "stages": ["base", "tsr1", "ssr1"], "sampling": {}}


@pytest.fixture(scope="module")
def runs(tmp_path_factory, bundle_of):
    folder = tmp_path_factory.mktemp("runs")
    for stage in CHAIN["stages"]:
        bundle_of(f"demo/{stage}", folder / "demo" / stage / "default" / "bundle")
    return folder


@pytest.fixture(scope="module")
def cascade(runs):
    return Cascade.from_runs(runs, CHAIN)


def seeded(number):
    return torch.Generator().manual_seed(number)


def test_each_stage_works_on_what_the_one_before_made(cascade):
    out = cascade("a red ball", generator=seeded(0))
    assert {name: tuple(video.shape) for name, video in out.stages.items()} == {
        "base": (1, 3, 4, 16, 16),
        "tsr1": (1, 3, 8, 16, 16),
        "ssr1": (1, 3, 8, 32, 32),
    }
    assert out.grid == Grid(frames=8, height=32, width=32, fps=8)
    assert out.videos.abs().max() <= 1


def test_the_same_seed_gives_the_same_video_whatever_else_is_in_the_batch(cascade):
    alone = cascade("a red ball", generator=seeded(5)).videos[0]
    prompts = ["a red ball", "something else that is much longer", ""]
    first = cascade(prompts, generator=seeded(5)).videos[0]
    generators = [seeded(8), seeded(5)]
    second = cascade(["other", "a red ball"], generator=generators).videos[1]
    parts = cascade(prompts, generator=seeded(5), batch_size=2).videos[0]
    other = cascade("a red ball", generator=seeded(6)).videos[0]
    for video in (first, second, parts):
        assert (video - alone).abs().max() <= 2 / 255
    assert (other - alone).abs().max() > 0.05


def test_sizes_and_durations_are_chosen_when_called(cascade):
    out = cascade(
        "a", generator=seeded(0), num_frames=12, height=16, width=48, num_inference_steps=1
    )
    assert out.videos.shape == (1, 3, 12, 16, 48)


def test_output_types(cascade):
    options = {"generator": None, "num_inference_steps": 1}
    video = cascade("a", **{**options, "generator": seeded(0)}).videos
    array = cascade("a", **{**options, "generator": seeded(0)}, output_type="np").videos
    levels = cascade("a", **{**options, "generator": seeded(0)}, output_type="uint8").videos
    assert array.shape == levels.shape == (1, 8, 32, 32, 3)
    assert levels.dtype == torch.uint8
    torch.testing.assert_close(
        torch.from_numpy(array), video.permute(0, 2, 3, 4, 1) / 2 + 0.5, atol=1e-6, rtol=0
    )
    with pytest.raises(Exception, match="output_type|violates"):
        cascade("a", output_type="film")


def test_steps_and_guidance_are_chosen_per_stage(cascade):
    seen = {}
    cascade(
        "a",
        generator=seeded(0),
        num_inference_steps=[1, 2, 3],
        callback_on_step_end=lambda _, i, t, at: seen.update({at["stage"]: at["step"].count}),
    )
    assert seen == {"base": 1, "tsr1": 2, "ssr1": 3}
    plain = cascade("a", generator=seeded(0), guidance_scale=1.0).stages["base"]
    strong = cascade("a", generator=seeded(0), guidance_scale=[9.0, 1.0, 1.0]).stages["base"]
    away = cascade("a", "b", generator=seeded(0), guidance_scale=[9.0, 1.0, 1.0]).stages["base"]
    assert (plain - strong).abs().max() > 1e-3
    assert (away - strong).abs().max() > 1e-4
    with pytest.raises(ValueError, match="steps: 3 stages, but 2 values"):
        cascade("a", num_inference_steps=[1, 2])


def test_a_given_image_survives_to_the_last_stage(cascade):
    image = torch.rand(1, 3, 1, 32, 32) * 2 - 1
    out = cascade("a", generator=seeded(0), given=conditioning.image(image, 8))
    torch.testing.assert_close(out.videos[:, :, :1], image)
    with pytest.raises(ValueError, match=r"last stage's grid: frames .*8, 32, 32.*got .*4, 32, 32"):
        cascade("a", given=conditioning.image(image, 4))


def test_a_callback_sees_the_networks_own_frames_before_given_ones_are_put_back(cascade):
    image, last = torch.rand(1, 3, 1, 32, 32) * 2 - 1, {}
    out = cascade(
        "a",
        generator=seeded(0),
        given=conditioning.image(image, 8),
        callback_on_step_end=lambda _, i, t, at: last.update({at["stage"]: at["x"]}),
    )
    for name, video in out.stages.items():
        assert torch.equal(last[name][:, :, 1:].clamp(-1, 1), video[:, :, 1:])
        assert (last[name][:, :, :1] - video[:, :, :1]).abs().max() > 1e-3


def test_earlier_stages_are_given_the_frames_at_their_own_times_alone():
    frames = torch.arange(8.0).view(1, 1, 8, 1, 1).expand(1, 3, 8, 4, 4) / 8
    mask = torch.zeros(1, 1, 8, 4, 4)
    mask[:, :, [0, 3, 6, 7]] = 1
    low = to_grid(
        Given(frames * mask, mask), Grid(frames=4, height=2, width=2, fps=4), torch.device("cpu")
    )
    assert low.mask[0, 0, :, 0, 0].tolist() == [1, 0, 0, 1]
    torch.testing.assert_close(low.frames[0, 0, :, 0, 0], torch.tensor([0.0, 0, 0, 6 / 8]))


@pytest.mark.parametrize("prompt", ["", "雪の上を走る小さな犬"])
def test_empty_and_chinese_prompts_are_prompts(cascade, prompt):
    assert cascade(prompt, generator=seeded(0), num_inference_steps=1).videos.isfinite().all()


def test_a_prompt_of_10000_characters_is_refused_with_both_lengths(cascade):
    with pytest.raises(ValueError, match="takes at most 512 bytes of UTF-8, the prompt has 10000"):
        cascade("x" * 10_000)
    with pytest.raises(ValueError, match="the prompt has 10000"):
        cascade("a", "x" * 10_000)


def test_counts_that_differ_are_refused(cascade):
    with pytest.raises(ValueError, match="2 prompts, but 3 negative prompts"):
        cascade(["a", "b"], ["c", "d", "e"])
    with pytest.raises(ValueError, match="2 prompts, 1 generators"):
        cascade(["a", "b"], generator=[seeded(0)])
    with pytest.raises(ValueError, match="no prompt was given"):
        cascade([])


def test_odd_sizes_are_refused_with_the_nearest_that_fits(cascade):
    with pytest.raises(ValueError, match=r"height=15: .* multiple of 8 .*; the nearest is 16"):
        cascade("a", height=15)


def test_stages_that_do_not_meet_are_refused(runs):
    paths = {s: runs / "demo" / s / "default" / "bundle" for s in CHAIN["stages"]}
    with pytest.raises(ValueError, match="must be a base"):
        Cascade.from_pretrained([paths["ssr1"]])
    with pytest.raises(ValueError, match=r"do not match: base generates 4 .*ssr1 takes 8"):
        Cascade.from_pretrained([paths["base"], paths["ssr1"]])
    with pytest.raises(ValueError, match="must have different names"):
        Cascade.from_pretrained([paths["base"], paths["base"]])


def test_a_cascade_bundle_runs_as_its_stages_do(runs, cascade, tmp_path):
    paths = {s: runs / "demo" / s / "default" / "bundle" for s in CHAIN["stages"]}
    folder = save_cascade(tmp_path / "c", bundles=paths, sampling={"base": {"steps": 1}})
    joined = Cascade.from_pretrained(folder)
    wanted = cascade("a", generator=seeded(1), num_inference_steps=[1, 2, 2]).videos
    torch.testing.assert_close(joined("a", generator=seeded(1)).videos, wanted)


def test_a_missing_stage_says_how_to_train_it(tmp_path):
    with pytest.raises(BundleError, match="make train STAGE=base CASCADE=demo"):
        Cascade.from_runs(tmp_path, CHAIN)


def test_offload_and_bfloat16_give_nearly_the_same_video(runs, cascade):
    wanted = cascade("a", generator=seeded(2)).videos
    options = {"dtype": torch.bfloat16, "offload": True}
    half = Cascade.from_runs(runs, CHAIN, **options)("a", generator=seeded(2)).videos
    assert half.dtype == torch.float32
    assert (half - wanted).abs().mean() < 0.05


def test_a_restyled_video_starts_from_its_source_noised_to_the_strength(cascade, monkeypatch):
    source = torch.rand(1, 3, 8, 32, 32) * 2 - 1
    low = resize(source[:, :, ::2], 16, 16)
    base = cascade.stages[0]
    monkeypatch.setattr(base, "predict", lambda z, _logsnr, _cond: z)  # what it starts from stays

    def made(**options):
        return cascade("a", generator=seeded(0), guidance_scale=1.0, **options).stages["base"]

    near, far = (made(start=source, strength=s) for s in (0.05, 1.0))
    torch.testing.assert_close(near, low, atol=0.4, rtol=0)
    torch.testing.assert_close(far, made(), atol=1e-3, rtol=0)
    with pytest.raises(ValueError, match="strength must lie in"):
        cascade("a", start=source, strength=-0.1)
    with pytest.raises(ValueError, match="start .* and strength must be given together"):
        cascade("a", start=source)
    with pytest.raises(ValueError, match="must be on the last stage's grid"):
        cascade("a", start=source[:, :, :4], strength=0.5)


def test_each_stage_may_come_from_a_run_of_its_own(runs, bundle_of):
    bundle_of("demo/tsr1", runs / "demo/tsr1/longer/bundle")
    mixed = Cascade.from_runs(runs, CHAIN, run={"tsr1": "longer"})
    assert [stage.name for stage in mixed.stages] == CHAIN["stages"]
    with pytest.raises(BundleError, match="make train STAGE=base CASCADE=demo NAME=longer"):
        Cascade.from_runs(runs, CHAIN, run={"base": "longer"})
    with pytest.raises(ValueError, match="cascade demo has no stage ssr9"):
        Cascade.from_runs(runs, CHAIN, run={"ssr9": "longer"})


def test_a_video_is_made_again_when_anything_it_depends_on_changes(runs):
    def fresh():
        return Cascade.from_runs(runs, CHAIN)

    known = {fingerprint(fresh(), ["a"], 0)}
    assert fingerprint(fresh(), ["a"], 0) in known

    def augment(cascade):
        cascade.stages[1].augment.snr = 7.0

    def text(cascade):
        cascade.stages[0].text.max_bytes = 99

    def codec(cascade):
        cascade.stages[0].codec.factor = (1, 2, 2)

    def steps(cascade):
        cascade.stages[0].sampling.steps = 99

    def residual(cascade):
        cascade.stages[1].residual *= 2

    def network(cascade):
        cascade.stages[0].net.blocks[0].attention.heads *= 2

    def weights(cascade):
        next(cascade.stages[2].parameters()).data.add_(1e-3)

    def kind(cascade):
        cascade.stages[2].kind.scalars = ("fps", "augment")

    def level(cascade):
        cascade.sampling[1]["low_logsnr"] = 3.0

    for change in (augment, text, codec, steps, residual, network, weights, kind, level):
        cascade = fresh()
        change(cascade)
        found = fingerprint(cascade, ["a"], 0)
        assert found not in known, change.__name__
        known.add(found)


def test_a_video_ends_with_its_given_last_frame(cascade):
    first, last = torch.rand(2, 1, 3, 1, 32, 32) * 2 - 1
    given = conditioning.first_last(first, last, 8, stride=2)
    out = cascade("a", generator=seeded(0), given=given)
    assert out.videos.shape[2] == out.grid.frames == 7
    torch.testing.assert_close(out.videos[:, :, -1:], last, rtol=0, atol=0)


def test_a_call_does_not_change_the_fingerprint_of_its_videos(runs):
    cascade = Cascade.from_runs(runs, CHAIN)
    before = fingerprint(cascade, ["a"], 0)
    cascade("a", generator=seeded(0), num_inference_steps=1)
    assert fingerprint(cascade, ["a"], 0) == before


def test_settings_hold_values_and_no_address():
    class Part:
        def __init__(self, value):
            self.value = value

    def of(*values):
        return json.dumps([settings(Part(value)) for value in values])

    def same():
        return of([Part(1)], torch.arange(3), partial(max, key=Part), Part.__init__)

    assert same() == same()
    assert "0x" not in same()
    assert of(torch.zeros(2)) != of(torch.ones(2))
    assert of([Part(1)]) != of([Part(2)])
    assert of(partial(max, 1)) != of(partial(max, 2))
    assert of(max) != of(min)


@pytest.mark.parametrize(
    ("check", "arguments", "message"),
    [
        (check_text, ("prompt", 5), "prompt must be text, got 5"),
        (check_text, ("prompt", ["a", None]), "prompt must be text"),
        (check_setting, ("steps", 2.5), "steps must be an integer of at least 1, got 2.5"),
        (check_setting, ("steps", "two"), "steps must be an integer.*'two'"),
        (check_setting, ("guidance_scale", "high"), "guidance_scale must be a finite number"),
        (check_output, ("foo",), "output_type must be one of pt, np, uint8, got 'foo'"),
        (check_run, (5,), "run must be the name of a run, .* got 5"),
        (check_run, (None,), "run must be the name of a run"),
        (check_run, ({"base": 5},), "run must be the name of a run"),
    ],
)
def test_values_of_another_type_are_refused(check, arguments, message):
    with pytest.raises(ValueError, match=message):
        check(*arguments)


@pytest.mark.parametrize(
    ("sampling", "message"),
    [
        ({"nope": {"steps": 1}}, "cascade demo has no stage nope"),
        ({"base": {"guidence_scale": 2}}, "sampling.base.guidence_scale: no such setting"),
        ({"base": {"steps": 0}}, "steps must be an integer of at least 1, got 0"),
    ],
)
def test_sampling_settings_of_a_cascade_are_checked(runs, sampling, message):
    with pytest.raises(ValueError, match=message):
        Cascade.from_runs(runs, {**CHAIN, "sampling": sampling})


def test_a_device_that_does_not_exist_is_refused(runs):
    config = {"device": "nowhere", "dtype": "float32", "bundle": None, "cascade": CHAIN}
    with pytest.raises(ValueError, match="device=nowhere: cannot be used"):
        open_cascade(OmegaConf.create({"paths": {"runs": str(runs)}, "run": "default", **config}))
