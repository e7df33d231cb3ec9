"""Overfitting: one clip goes the whole way and is judged, with a message where it falls short."""

import tarfile

import pytest
import torch

from cascade.overfit import one_clip_shard
from cascade.video import read_frames, write_mp4
from tests import commands


@pytest.fixture
def clip(tmp_path):
    levels = torch.linspace(-1, 1, 20).view(1, 20, 1, 1).expand(3, 20, 40, 40)
    write_mp4(tmp_path / "ramp.mp4", levels, fps=8)
    (tmp_path / "ramp.txt").write_text("it grows light")
    return tmp_path / "ramp.mp4"


def test_the_shard_holds_the_clip_and_its_caption(clip, tmp_path):
    with tarfile.open(one_clip_shard(clip, tmp_path / "run")) as shard:
        assert {name: shard.extractfile(name).read() for name in shard.getnames()} == {
            "ramp.mp4": clip.read_bytes(),
            "ramp.txt": b"it grows light",
        }


def test_a_clip_without_its_caption_is_refused(clip, tmp_path):
    clip.with_suffix(".txt").unlink()
    with pytest.raises(ValueError, match=r"ramp\.txt is missing; a clip needs its caption"):
        one_clip_shard(clip, tmp_path / "run")


@pytest.mark.slow
def test_a_clip_is_compared_with_plain_interpolation(clip, tmp_path):
    command = ["cascade.overfit", "stage=demo/ssr1", "debug=overfit"]
    command += [f"clip={clip}", f"paths.runs={tmp_path}", "logger=csv", "stage.train.steps=4"]
    command += ["trainer.enable_progress_bar=false", "name=overfit"]
    passed = commands.run(*command, "min_psnr=0", "min_gain=-99")
    assert passed.returncode == 0, passed.stderr[-2000:]
    assert "interpolation" in passed.stdout
    run = tmp_path / "demo/ssr1/overfit"
    frames, _ = read_frames(run / "clip.mp4")
    assert frames.shape == read_frames(run / "back.mp4")[0].shape
    failed = commands.run(*command, "min_psnr=99", "min_gain=-99")
    assert failed.returncode != 0
    assert "99.00 dB are required; compare" in failed.stderr
    assert "Traceback" not in failed.stderr
