"""Video files say how they were made, and are complete or absent."""

import resource
from pathlib import Path

import pytest
import torch

from cascade.grid import Grid
from cascade.video import (
    Mp4Writer,
    check_format,
    read_frames,
    read_metadata,
    write_gif,
    write_mp4,
    write_png,
    write_video,
)
from tests.cascade.smooth_video import smooth

METADATA = {"prompt": "🦊 雪 \udc80 ${x}\n" * 2000, "seed": 2**62, "scale": [0.1, None, True]}


@pytest.mark.parametrize("suffix", ["mp4", "gif", "png"])
def test_metadata_comes_back_and_changes_no_frame(tmp_path: Path, suffix: str) -> None:
    video = smooth(1 if suffix == "png" else 5)
    write_video(tmp_path / f"plain.{suffix}", video, 8)
    write_video(tmp_path / f"said.{suffix}", video, 8, metadata=METADATA)
    assert read_metadata(tmp_path / f"said.{suffix}") == METADATA
    assert read_metadata(tmp_path / f"plain.{suffix}") is None
    plain, said = (read_frames(tmp_path / f"{name}.{suffix}") for name in ("plain", "said"))
    assert torch.equal(plain[0], said[0])
    assert torch.equal(plain[1], said[1])


def test_a_text_has_no_metadata(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_text("a text that is named mp4")
    for name, match in (("a.mp4", "a text, not a video"), ("b.mp4", "No such file")):
        with pytest.raises(ValueError, match=match):
            read_metadata(tmp_path / name)


def test_an_mp4_appears_complete_at_the_end_with_its_index_first(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    with Mp4Writer(path, fps=8) as writer:
        for frame in smooth(5).split(1, dim=1):
            writer.write(frame)
            assert not path.exists()
    assert [one.name for one in tmp_path.iterdir()] == ["a.mp4"]
    data = path.read_bytes()
    assert 0 < data.find(b"moov") < data.find(b"mdat")
    write_mp4(tmp_path / "b.mp4", smooth(5), 8)
    assert torch.equal(read_frames(path)[0], read_frames(tmp_path / "b.mp4")[0])


def test_an_error_leaves_the_file_of_that_name_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(b"before")
    writer = Mp4Writer(path, fps=8)
    writer.write(smooth(2))
    writer.discard()
    with pytest.raises(ValueError, match="at least one frame, got none"), Mp4Writer(path, fps=8):
        pass
    assert [(one.name, one.read_bytes()) for one in tmp_path.iterdir()] == [("a.mp4", b"before")]


@pytest.mark.parametrize("most", [0, 3000])
def test_a_full_disk_names_the_file_and_leaves_nothing(tmp_path: Path, most: int) -> None:
    noise = torch.rand(3, 40, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, limit[1]))
    try:
        with pytest.raises(ValueError, match=r"a\.mp4: cannot be written \(File too large\)"):
            write_mp4(tmp_path / "a.mp4", noise, 8)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "grid", "match"),
    [
        ("a.png", Grid(frames=2, height=8, width=8, fps=8), "one frame, got 2"),
        ("a.gif", Grid(frames=2000, height=512, width=512, fps=8), "at most 268435456 pixels"),
        ("a.mp4", Grid(frames=2, height=8, width=16_386, fps=8), "at most 16384 pixels"),
        ("a.mp4", Grid(frames=2, height=8, width=8, fps=1e-300), "0.01 to 1000 per second, got"),
        ("a.mp4", Grid(frames=2, height=8, width=8, fps=1e9), "0.01 to 1000 per second, got"),
        ("a.gif", Grid(frames=2, height=8, width=8, fps=120), "0.01 to 100 per second, got 120"),
        ("a.webm", Grid(frames=2, height=8, width=8, fps=8), r"got '\.webm'"),
    ],
)
def test_what_a_format_cannot_hold_is_refused_by_its_grid(name, grid, match) -> None:
    with pytest.raises(ValueError, match=match):
        check_format(name, grid)


def test_pictures_are_replaced_whole(tmp_path: Path) -> None:
    for write, name in ((write_gif, "a.gif"), (write_png, "a.png")):
        args = (smooth(3), 8) if name == "a.gif" else (smooth(1)[:, 0],)
        write(tmp_path / name, *args)
        write(tmp_path / name, *args)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["a.gif", "a.png"]


def test_the_same_frames_give_the_same_file_whatever_was_decoded_before(tmp_path):
    video = torch.rand(3, 320, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    files = [tmp_path / f"{number}.mp4" for number in range(3)]
    for file in files:
        write_mp4(file, video, fps=8)
        read_frames(file)
    assert len({file.read_bytes() for file in files}) == 1
