"""A sampled video is made again from its own metadata, and no video replaces another."""

import shutil
import sys
from pathlib import Path

import pytest
import torch

from cascade.sample import main
from cascade.video import read_frames, read_metadata, write_mp4, write_png

PROMPT = "a ${ball}, it's \\${red}: {big} 雪"


@pytest.fixture(scope="module")
def runs(tmp_path_factory, bundle_of):
    folder = tmp_path_factory.mktemp("runs")
    for stage in ("base", "tsr1", "ssr1"):
        bundle_of(f"demo/{stage}", folder / "demo" / stage / "default" / "bundle")
    write_png(folder / "first.png", torch.linspace(-1, 1, 32).expand(3, 32, 32))
    return folder


@pytest.fixture
def sample(runs, monkeypatch, capsys):
    """The command in this process: its files, and what it said."""

    def run(out: Path, *arguments: str) -> tuple[list[Path], str]:
        monkeypatch.setenv("PROMPT", PROMPT)
        few = (
            []
            if any(one.startswith("from=") for one in arguments)
            else ["num_inference_steps=1", "prompt=${oc.env:PROMPT}"]
        )
        words = [f"paths.runs={runs}", f"out={out}", "device=cpu", *few, *arguments]
        monkeypatch.setattr(sys, "argv", ["sample", *words])
        main()
        return sorted(one for one in out.iterdir() if one.is_file()), capsys.readouterr().out

    return run


@pytest.fixture
def first(sample, tmp_path, runs):
    """Two videos that the command made."""
    files, _ = sample(tmp_path / "a", "num_videos=2", "seed=7", f"image={runs}/first.png")
    return files


def refused(sample, match, *arguments):
    with pytest.raises(SystemExit, match=match):
        sample(*arguments)


def test_a_video_is_made_again_by_its_file_alone(sample, first, tmp_path):
    record = read_metadata(first[1])["cascade"]
    assert record["request"]["prompt"] == PROMPT
    assert (record["number"], record["named"]["seed"]) == (1, 7)
    (again,), _ = sample(tmp_path / "b", f"from='{first[1]}'")
    assert again.name == first[1].name
    assert torch.equal(read_frames(again)[0], read_frames(first[1])[0])
    assert read_metadata(again) == read_metadata(first[1])
    assert not torch.equal(read_frames(again)[0], read_frames(first[0])[0])


def test_typed_keys_win_and_are_said(sample, first, tmp_path):
    (other,), said = sample(tmp_path / "b", f"from='{first[0]}'", "seed=8", "format=gif")
    assert "seed=8 is used, not 7" in said
    assert "format=gif is used, not mp4" in said
    assert other.suffix == ".gif"
    assert read_metadata(other)["cascade"]["named"]["seed"] == 8


def test_a_video_that_exists_is_kept_and_those_missing_are_made(sample, first, tmp_path, runs):
    before = first[0].stat().st_mtime_ns
    asked = ("seed=7", f"image={runs}/first.png")
    files, said = sample(tmp_path / "a", "num_videos=3", *asked)
    assert len(files) == 3
    assert said.count("is this video already; overwrite=true makes it again") == 2
    assert first[0].stat().st_mtime_ns == before
    (third,), _ = sample(tmp_path / "b", "first=2", *asked)
    assert torch.equal(read_frames(third)[0], read_frames(files[2])[0])
    sample(tmp_path / "a", *asked, "overwrite=true")
    assert first[0].stat().st_mtime_ns > before


def test_another_file_of_that_name_is_not_replaced(sample, first, tmp_path, runs):
    shutil.copy(first[1], first[0])
    asked = (tmp_path / "a", "seed=7", f"image={runs}/first.png")
    refused(sample, r"exists, and is not the video .* overwrite=true", *asked)
    assert first[0].read_bytes() == first[1].read_bytes()


def test_other_bundles_and_sources_are_refused(sample, first, tmp_path, runs, bundle_of):
    out, source = tmp_path / "b", f"from='{first[0]}'"
    card = runs / "demo" / "tsr1" / "default" / "bundle" / "card.json"
    text, image = card.read_text(), (runs / "first.png").read_bytes()
    try:
        card.write_text(text.replace('"steps": 1', '"steps": 2'))
        refused(sample, r"stage 1 was made by card.json \w{32}, and .* \w{32} now", out, source)
        assert len(sample(out, source, "same=false")[0]) == 1
    finally:
        card.write_text(text)
    try:
        write_png(runs / "first.png", torch.zeros(3, 32, 32))
        refused(sample, r"source image=\S+ had the content \w{32}, and has \w{32}", out, source)
        (runs / "first.png").unlink()
        refused(sample, r"source image=\S+ is missing; type image=… where", out, source)
        (tmp_path / "moved.png").write_bytes(image)
        moved, said = sample(tmp_path / "c", source, f"image={tmp_path}/moved.png")
        assert "moved.png is used, not" in said
        assert torch.equal(read_frames(moved[0])[0], read_frames(first[0])[0])
    finally:
        (runs / "first.png").write_bytes(image)


def test_a_video_without_a_record_is_refused(sample, tmp_path):
    write_mp4(tmp_path / "a.mp4", torch.zeros(3, 2, 16, 16), 8)
    write_mp4(tmp_path / "b.mp4", torch.zeros(3, 2, 16, 16), 8, metadata={"cascade": {"format": 9}})
    refused(sample, "has no metadata of Cascade", tmp_path / "o", f"from={tmp_path}/a.mp4")
    refused(sample, "has format 9, but this .* format 1", tmp_path / "o", f"from={tmp_path}/b.mp4")
    refused(sample, "No such file", tmp_path / "o", f"from={tmp_path}/c.mp4")


def test_a_disk_without_room_is_refused_before_the_first_step(sample, tmp_path, monkeypatch):
    free = shutil.disk_usage(tmp_path)._replace(free=10)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: free)
    refused(sample, r"out=.*: 1 videos of .* take at least", tmp_path / "b")
    assert not list((tmp_path / "b").iterdir())
