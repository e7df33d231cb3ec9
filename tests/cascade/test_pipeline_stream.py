"""A cascade as a stream, in windows, in part, and from what an earlier call had made."""

import pytest
import torch

from cascade import conditioning
from cascade.pipeline import Cascade
from cascade.request import Windows

STAGES = ["base", "tsr1", "ssr1"]


@pytest.fixture(scope="module")
def cascade(tmp_path_factory, bundle_of):
    folder = tmp_path_factory.mktemp("runs")
    for stage in STAGES:
        bundle_of(f"demo/{stage}", folder / "demo" / stage / "default" / "bundle")
    return Cascade.from_runs(folder, {"name": "demo", "stages": STAGES})


def seeded(number=0):
    return torch.Generator().manual_seed(number)


@pytest.fixture(scope="module")
def whole(cascade):
    return cascade("a", generator=seeded(), num_frames=32, num_inference_steps=2)


def test_sizes_are_of_the_final_video(cascade):
    assert cascade.grids(seconds=1.4)[-1].frames == 12
    assert [grid.fps for grid in cascade.grids(fps=24)] == [12, 24, 24]


def test_windows_stream_what_a_call_returns(cascade, whole):
    windows = [Windows(), Windows(frames=8), Windows(frames=8, tile=16)]
    request = {"num_frames": 32, "num_inference_steps": 2, "windows": windows}
    parts = list(cascade.stream("a", generator=seeded(), **request))
    assert [part.shape[2] for part in parts] == [8] * 4
    torch.testing.assert_close(torch.cat(parts, dim=2), whole.videos, rtol=0, atol=2e-5)


def test_a_call_continues_what_an_earlier_one_had_made(cascade, whole):
    done = {"base": whole.stages["base"], "tsr1": whole.stages["tsr1"][:, :, :13]}
    made = []
    out = cascade(
        "a",
        generator=seeded(),
        num_frames=32,
        num_inference_steps=2,
        done=done,
        on_frames=lambda name, first, frames: made.append((name, first, frames.shape[2])),
        windows=Windows(frames=8),
    )
    torch.testing.assert_close(out.videos, whole.videos, rtol=0, atol=2e-5)
    assert made[0] == ("tsr1", 13, 3)
    assert all(name != "base" for name, _, _ in made)


def test_a_stage_that_no_later_one_needs_does_not_run(cascade, whole):
    done = {"tsr1": whole.stages["tsr1"]}
    request = {"num_frames": 32, "num_inference_steps": 2, "done": done}
    out = cascade("a", generator=seeded(), **request)
    torch.testing.assert_close(out.videos, whole.videos, rtol=0, atol=2e-5)
    assert list(out.stages) == ["tsr1", "ssr1"]


def test_a_call_may_run_some_of_the_stages(cascade, whole):
    request = {"num_inference_steps": 2}
    first = cascade("a", generator=seeded(), num_frames=16, stages=["base"], **request)
    torch.testing.assert_close(first.videos, whole.stages["base"])
    low = {"stages": ["tsr1", "ssr1"], "low": whole.stages["base"]}
    torch.testing.assert_close(
        cascade("a", generator=seeded(), **low, **request).videos, whole.videos
    )
    with pytest.raises(ValueError, match="stages: must be consecutive stages of base, tsr1, ssr1"):
        cascade("a", stages=["base", "ssr1"])
    with pytest.raises(ValueError, match="sets the size; leave them out"):
        cascade("a", **low, height=32)


def test_a_timeline_changes_the_prompt_on_the_way(cascade):
    request = {"num_inference_steps": 1, "stages": ["base"]}
    with pytest.raises(ValueError, match=r"begins at 9 s, but .* before the video ends \(1 s\)"):
        cascade("a", timeline=[(9.0, "b")], **request)
    both = cascade("a", timeline=[(0.5, "b")], generator=seeded(), **request).videos
    alone = cascade("a", generator=seeded(), **request).videos
    torch.testing.assert_close(both[:, :, :2], alone[:, :, :2], rtol=0, atol=1e-4)
    assert not torch.allclose(both[:, :, 2:], alone[:, :, 2:], atol=1e-3)


@pytest.mark.parametrize("strength", [0.0, 1.0])
def test_strength_0_returns_the_video_and_1_ignores_it(cascade, strength):
    source = torch.rand(1, 3, 8, 32, 32, generator=seeded(4)) * 2 - 1
    request = {"num_inference_steps": 2}
    out = cascade("a", generator=seeded(), start=source, strength=strength, **request)
    wanted = source if strength == 0 else cascade("a", generator=seeded(), **request).videos
    assert torch.equal(out.videos, wanted)


def test_frames_of_an_earlier_call_that_do_not_fit_are_refused(cascade, whole):
    request = {"num_frames": 32}
    with pytest.raises(ValueError, match="done: no stage bse runs; the stages are base, tsr1"):
        cascade("a", done={"bse": whole.stages["base"]}, **request)
    with pytest.raises(ValueError, match=r"base must be \(1, 3, frames, 16, 16\), got \(1, 3, 3"):
        cascade("a", done={"base": whole.videos}, **request)


def test_each_stage_has_its_windows_or_all_have_the_same(cascade):
    with pytest.raises(ValueError, match="windows: 3 stages, but 2 windows; give one each"):
        cascade("a", windows=[Windows(), Windows(frames=4)])


def test_a_loop_is_not_cut_by_a_given_last_frame(cascade):
    image = torch.zeros(1, 3, 1, 32, 32)
    given = conditioning.extend_backward(image, 8, stride=2)
    with pytest.raises(ValueError, match="loop: the video is cut at 7 frames"):
        cascade("a", given=given, loop=True)


def test_a_prompt_that_a_stage_has_no_frame_for_is_named(cascade, caplog):
    request = {"num_inference_steps": 1, "stages": ["base"], "generator": seeded()}
    cascade("a", timeline=[(0.45, "b"), (0.5, "c")], **request)
    assert (
        "stage base generates 4 frames per second, of which prompt 2 of 3 has none" in caplog.text
    )
