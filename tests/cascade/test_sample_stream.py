"""The sampling command on long videos: parts, stops, and what an earlier run had made."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest
import torch
import yaml

from cascade import sample_run
from cascade.sample import main
from cascade.video import read_frames, write_mp4


@pytest.fixture(scope="module")
def runs(tmp_path_factory, bundle_of):
    folder = tmp_path_factory.mktemp("runs")
    for stage in ("base", "tsr1", "ssr1"):
        bundle_of(f"demo/{stage}", folder / "demo" / stage / "default" / "bundle")
    return folder


@pytest.fixture
def words(runs):
    """The arguments of a request of few steps."""

    def make(out, *arguments):
        return [
            *(f"paths.runs={runs}", f"out={out}", "device=cpu", "num_inference_steps=2"),
            *arguments,
        ]

    return make


@pytest.fixture
def sample(words, monkeypatch, capsys):
    """The command in this process: the frames of its only video, and what it said."""

    def run(out, *arguments):
        monkeypatch.setattr(sys, "argv", ["sample", *words(out, *arguments)])
        main()
        (file,) = [one for one in out.iterdir() if one.is_file()]
        return read_frames(file)[0], capsys.readouterr().out

    return run


LONG = ("prompt=a", "seconds=6", "window=8")


def test_a_stopped_request_continues_and_gives_the_same_video(sample, tmp_path, monkeypatch):
    whole, _ = sample(tmp_path / "whole", *LONG)
    assert whole.shape == (48, 32, 32, 3)
    append, calls = sample_run.StageFrames.append, []

    def stopped(self, name, first, frames):
        append(self, name, first, frames)
        calls.append((name, first))
        if len(calls) == 8:
            raise KeyboardInterrupt

    monkeypatch.setattr(sample_run.StageFrames, "append", stopped)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        sample(tmp_path / "stopped", *LONG)
    assert not list((tmp_path / "stopped").glob("*.mp4"))
    before = list(calls)
    assert {name for name, _ in before} == {"base", "tsr1", "ssr1"}
    again, said = sample(tmp_path / "stopped", *LONG)
    assert "stage base: 24 of 24×16×16 @ 4 fps were made before" in said
    assert not {*calls[len(before) :]} & {*before}
    assert torch.equal(again, whole)


def test_another_setting_of_the_last_stage_reads_the_earlier_stages(sample, tmp_path):
    sample(tmp_path, *LONG, "guidance_scale=[1,1,1]")
    for file in tmp_path.glob("*.mp4"):
        file.unlink()
    _, said = sample(tmp_path, *LONG, "guidance_scale=[1,1,2]")
    assert "stage base: 24 of" in said
    assert "stage tsr1: 48 of" in said
    assert "stage ssr1: " not in said.replace("stage ssr1: 48×32×32 @ 8 fps in", "")
    for file in tmp_path.glob("*.mp4"):
        file.unlink()
    _, said = sample(tmp_path, *LONG, "guidance_scale=[2,1,2]")
    assert "were made before" not in said


def test_frames_are_removed_if_they_are_not_to_be_kept(sample, tmp_path):
    sample(tmp_path, *LONG, "keep=false")
    assert not list((tmp_path / ".stages").iterdir())


def test_a_video_of_the_user_goes_through_the_later_stages(sample, tmp_path):
    levels = torch.linspace(-1, 1, 24).view(1, 24, 1, 1).expand(3, 24, 20, 30)
    write_mp4(tmp_path / "mine.mp4", levels, fps=8)
    mine = f"video={tmp_path}/mine.mp4"
    video, said = sample(tmp_path / "out", "prompt=a", "stages=[tsr1,ssr1]", mine)
    assert video.shape == (24, 40, 56, 3)
    assert "begins with" in said
    assert "12×20×28 @ 4 fps" in said


def test_a_timeline_is_part_of_a_video_and_of_its_record(sample, tmp_path):
    entries = [{"from": 0, "to": 1, "prompt": "a"}, {"from": 1, "to": 2, "prompt": "b"}]
    (tmp_path / "t.yaml").write_text(yaml.safe_dump(entries))
    two, _ = sample(tmp_path / "two", f"timeline={tmp_path}/t.yaml", "seconds=2")
    one, _ = sample(tmp_path / "one", "prompt=a", "seconds=2")
    assert not torch.equal(two, one)
    (file,) = (tmp_path / "two").glob("*.mp4")
    (tmp_path / "t.yaml").unlink()
    again, _ = sample(tmp_path / "again", f"from='{file}'")
    assert torch.equal(again, two)


def test_a_timeline_sets_the_length_and_ends_with_the_video(sample, tmp_path):
    entries = [{"from": 0, "to": 1, "prompt": "a"}, {"from": 1, "to": 3, "prompt": "b"}]
    (tmp_path / "t.yaml").write_text(yaml.safe_dump(entries))
    timeline = f"timeline={tmp_path}/t.yaml"
    video, _ = sample(tmp_path / "own", timeline)
    assert len(video) == 24
    with pytest.raises(SystemExit, match="ends at 3 s, but the video lasts 5 s; leave out num_fr"):
        sample(tmp_path / "longer", timeline, "seconds=5")


def test_frames_of_later_stages_depend_on_their_own_bundles(sample, runs, tmp_path):
    levels = torch.linspace(-1, 1, 16).view(1, 16, 1, 1).expand(3, 16, 16, 16)
    write_mp4(tmp_path / "mine.mp4", levels, fps=8)
    request = ("prompt=a", "stages=[tsr1,ssr1]", f"video={tmp_path}/mine.mp4")
    sample(tmp_path / "out", *request)
    card = runs / "demo/tsr1/default/bundle/card.json"
    before = card.read_text()
    try:
        card.write_text(json.dumps({**json.loads(before), "steps": 2}))
        for file in (tmp_path / "out").glob("*.mp4"):
            file.unlink()
        _, said = sample(tmp_path / "out", *request)
    finally:
        card.write_text(before)
    assert "were made before" not in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "prompt and timeline: give one of them"),
        (("prompt=a", "timeline=missing.yaml"), r"timeline=missing.yaml: cannot be read"),
        (("prompt=a", "num_frames=7"), r"num_frames=7: must be a positive multiple of 4 .* 8"),
        (("prompt=a", "seconds=1", "num_frames=8"), "seconds=1 and num_frames=8: give one"),
        (("prompt=a", "stages=[ssr1,base]"), "must be consecutive stages of base, tsr1, ssr1"),
        (("prompt=a", "stages=[ssr1]"), "so the request needs video="),
        (("prompt=a", "memory=1e-6"), r"stage base: 1 video\(s\) of .* need"),
        (("prompt=a", "window=7"), "stage tsr1: frames of its windows must be a multiple of 2"),
        (("prompt=a", "window=0"), "window=0: must be a whole number of at least 1"),
    ],
)
def test_what_cannot_be_sampled_is_refused_before_anything_is(
    sample, tmp_path, arguments, message, capsys
):
    with pytest.raises(SystemExit) as error:
        sample(tmp_path, *arguments)
    said = f"{error.value}{capsys.readouterr()}"
    assert re.search(message, said), said
    assert not list(tmp_path.glob("*.mp4"))


@pytest.mark.slow
def test_a_killed_request_continues_and_gives_the_same_video(sample, words, tmp_path):
    request = ("prompt=a", "seconds=40", "window=8")
    out = tmp_path / "killed"
    command = [sys.executable, "-m", "cascade.sample", *words(out, *request)]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL)
    while process.poll() is None and not list((out / ".stages").glob("ssr1-*")):
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not list(out.glob("*.mp4"))
    again, said = sample(out, *request)
    assert "stage ssr1" in said
    whole, _ = sample(tmp_path / "whole", *request)
    assert (again.float() - whole.float()).abs().max() <= 2  # another process, after H.264


def test_one_frame_is_a_picture_and_from_makes_it_again(sample, tmp_path):
    picture, _ = sample(tmp_path / "a", "prompt=a", "num_frames=1")
    assert picture.shape == (1, 32, 32, 3)
    (first,) = (tmp_path / "a").glob("*.png")
    sample(tmp_path / "b", f"from='{first}'")
    assert (tmp_path / "b" / first.name).read_bytes() == first.read_bytes()
    for words, match in (("loop=true", "num_frames=1 is a picture"), ("seconds=1", "give one")):
        with pytest.raises(SystemExit, match=match):
            sample(tmp_path / "c", "prompt=a", "num_frames=1", words)
    with pytest.raises(SystemExit, match="a png has one frame, got 8; set num_frames=1"):
        sample(tmp_path / "c", "prompt=a", "format=png")
