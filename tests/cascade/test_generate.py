"""The videos of an evaluation: given beginnings, joints, and batches that are kept."""

import pytest
import torch

from cascade.generate import generate, joint, to_generate
from cascade.pipeline import Cascade
from cascade.video import to_uint8
from data.worlds.shapes import heldout_prompts
from data.worlds.truth import shapes_truth


@pytest.fixture(scope="module")
def cascade(bundle_of, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundles")
    names = ("base", "tsr1", "ssr1")
    bundles = [bundle_of(f"demo/{name}", folder / name) for name in names]
    return Cascade.from_pretrained(bundles)


def made(cascade, folder, prompts=None, batch_size=2, **asked):
    prompts = prompts or heldout_prompts(3)
    wanted = to_generate(cascade, prompts, render=shapes_truth, **asked)
    return generate(cascade, wanted, folder=folder, seed=0, batch_size=batch_size)


def test_every_stage_has_a_video_per_prompt_in_batches_of_any_size(cascade, tmp_path):
    found = made(cascade, tmp_path / "a")
    assert {name: len(videos) for name, videos in found.videos.items()} == {
        "base": 3,
        "tsr1": 3,
        "ssr1": 3,
    }
    other = made(cascade, tmp_path / "b", batch_size=3)
    for name, videos in found.videos.items():
        assert (videos.int() - other.videos[name].int()).abs().max() <= 1


def test_kept_batches_are_read_and_not_made_again(cascade, tmp_path, monkeypatch):
    found = made(cascade, tmp_path)
    monkeypatch.setattr(Cascade, "__call__", None)
    again = made(cascade, tmp_path)
    assert all(torch.equal(again.videos[name], video) for name, video in found.videos.items())


def test_videos_of_another_content_with_the_same_prompt_are_made_anew(cascade, tmp_path):
    (text, one), (_, other) = heldout_prompts(2)
    for content in (one, other):
        found = made(cascade, tmp_path, [(text, content)], given=3)
        assert torch.equal(found.videos["ssr1"][0, :, :3], found.truth("ssr1", 0)[:, :3])


def test_given_frames_are_those_of_the_right_video(cascade, tmp_path):
    found = made(cascade, tmp_path, given=3)
    for n in range(3):
        right = found.truth("ssr1", n)
        assert torch.equal(found.videos["ssr1"][n, :, :3], right[:, :3])
        assert not torch.equal(found.videos["ssr1"][n, :, 3:], right[:, 3:])


def test_a_joint_is_the_stage_alone_on_the_right_input(cascade, tmp_path):
    found = made(cascade, tmp_path, joints=True)
    assert [*found.videos] == ["base", joint("tsr1"), "tsr1", joint("ssr1"), "ssr1"]
    stage = cascade.stages[-1]
    right = torch.stack([found.truth("ssr1", n) for n in range(2)]) / 127.5 - 1
    alone = cascade(
        list(found.prompts[:2]),
        generator=[torch.Generator().manual_seed(n) for n in range(2)],
        low=stage.kind.reduce(right),
        stages=["ssr1"],
    ).stages["ssr1"]
    apart = to_uint8(alone).int() - found.videos[joint("ssr1")][:2].int()
    assert apart.abs().max() <= 1
    assert not torch.equal(found.videos[joint("ssr1")], found.videos["ssr1"])


def test_fewer_frames_than_the_video_has_can_be_given(cascade, tmp_path):
    with pytest.raises(ValueError, match="given must be from 0 to 7, fewer .* got 8"):
        made(cascade, tmp_path, given=8)
