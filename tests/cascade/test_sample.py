"""The sampling command: files in, files out."""

import os
import subprocess
import sys

import pytest
import torch
from omegaconf import OmegaConf

from cascade.grid import Grid
from cascade.sample import file_name, given_files
from cascade.video import read_frames, write_mp4, write_png

GRID = Grid(frames=8, height=16, width=16, fps=8)


@pytest.fixture
def files(tmp_path):
    levels = torch.linspace(-1, 1, 24).view(1, 24, 1, 1).expand(3, 24, 32, 32)
    write_mp4(tmp_path / "ramp.mp4", levels, fps=8)
    for name, level in (("dark", -1.0), ("light", 1.0)):
        write_png(tmp_path / f"{name}.png", torch.full((3, 20, 20), level))
    return tmp_path


def config(**values):
    empty = dict.fromkeys(["image", "last", "video", "to"])
    return OmegaConf.create({**empty, "way": "extend_forward", "share": 0.5, **values})


def levels_and_places(given):
    places = given.mask[0, 0, :, 0, 0].nonzero().flatten().tolist()
    return [round(float(v), 1) for v in given.frames[0, :, places].mean((0, 2, 3))], places


def test_text_alone_gives_nothing():
    assert given_files(config(), GRID) is None


@pytest.mark.parametrize(
    ("values", "levels", "places"),
    [
        ({"image": "dark.png"}, [-1.0], [0]),
        ({"last": "light.png"}, [1.0], [7]),
        ({"image": "dark.png", "last": "light.png"}, [-1.0, 1.0], [0, 7]),
        ({"video": "ramp.mp4"}, [0.7, 0.8, 0.9, 1.0], [0, 1, 2, 3]),
        (
            {"video": "ramp.mp4", "way": "extend_backward"},
            [-1.0, -0.9, -0.8, -0.7],
            [4, 5, 6, 7],
        ),
        ({"video": "ramp.mp4", "way": "loop"}, [0.9, 1.0, -1.0, -0.9], [0, 1, 6, 7]),
        (
            {"video": "ramp.mp4", "way": "connect", "to": "ramp.mp4"},
            [0.9, 1.0, -1.0, -0.9],
            [0, 1, 6, 7],
        ),
    ],
)
def test_files_are_given_where_their_way_puts_them(files, values, levels, places):
    named = {k: str(files / v) if k != "way" else v for k, v in values.items()}
    given = given_files(config(**named), GRID)
    found, where = levels_and_places(given)
    assert where == places
    assert found == pytest.approx(levels, abs=0.11)


def test_files_that_do_not_go_together_are_refused(files):
    video = str(files / "ramp.mp4")
    with pytest.raises(ValueError, match="not both"):
        given_files(config(video=video, image=str(files / "dark.png")), GRID)
    with pytest.raises(ValueError, match="way=sideways: must be one of"):
        given_files(config(video=video, way="sideways"), GRID)
    with pytest.raises(ValueError, match="name the second with to="):
        given_files(config(video=video, way="connect"), GRID)


def test_file_names_are_short_and_safe():
    assert file_name("a/../b c") == "a-b-c"
    assert file_name("雪の上を 走る") == "雪の上を-走る"
    assert file_name("") == "untitled"
    assert len(file_name("x" * 10_000)) == 60


@pytest.mark.slow
def test_the_command_writes_videos(tmp_path, bundle_of):
    for stage in ("base", "tsr1", "ssr1"):
        bundle_of(f"demo/{stage}", tmp_path / "demo" / stage / "default" / "bundle")
    write_png(tmp_path / "first.png", torch.zeros(3, 32, 32))
    command = [sys.executable, "-m", "cascade.sample", "prompt='a ball, red: {big}'"]
    command += [f"paths.runs={tmp_path}", "num_videos=2", f"image={tmp_path}/first.png"]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    files = sorted((tmp_path / "demo/samples").glob("*.mp4"))
    assert [path.name for path in files] == ["a-ball-red-big-0-0.mp4", "a-ball-red-big-0-1.mp4"]
    frames, times = read_frames(files[0])
    assert frames.shape == (8, 32, 32, 3)
    assert times[1] == pytest.approx(1 / 8)
    assert (frames[0].float() - 127.5).abs().max() < 12
