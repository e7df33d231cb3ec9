"""Small moving videos, and the recipe of conf/shards.yaml with what a test asks for."""

import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from cascade.entry import CONF
from data.ingest.recipe import Recipe
from data.ingest.run import Settings

SECTIONS = ("shots", "windows", "encoding", "measures", "filters", "packing")
SETTINGS = Settings(deadline_s=60, memory_gb=4, ahead=3, thumbnails=4)
QUICK = (
    "measures.text_side=null",
    "filters.text=null",
    "encoding.preset=ultrafast",
    "filters.min_short_side=32",
)


def scene(seed: int, frames: int, height: int = 96, width: int = 128) -> np.ndarray:
    """Coloured blocks that slide: another seed is another scene."""
    random = np.random.default_rng(seed)
    blocks = random.integers(0, 255, (12, 24, 3)).repeat(16, axis=0).repeat(16, axis=1)
    return np.stack(
        [np.roll(blocks, 3 * i, axis=1)[:height, :width] for i in range(frames)]
    ).astype(np.uint8)


def write_video(
    path: Path, pixels: np.ndarray, *, fps: int = 12, gop: int = 250, **options
) -> Path:
    """H.264 of (f, h, w, 3) frames; `times` shows each at its own second."""
    times = options.pop("times", None)
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        given = {"preset": "ultrafast", "crf": "10", "g": str(gop), **options}
        stream = container.add_stream("libx264", rate=fps, options=given)
        stream.height, stream.width = pixels.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for i, image in enumerate(pixels):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            if times is not None:
                frame.pts, frame.time_base = round(times[i] * fps), Fraction(1, fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.fixture(scope="session")
def make_scene() -> Callable[..., np.ndarray]:
    return scene


@pytest.fixture(scope="session")
def make_video() -> Callable[..., Path]:
    return write_video


@pytest.fixture(scope="session")
def make_recipe() -> Callable[..., Recipe]:
    def recipe(*overrides: str) -> Recipe:
        with initialize_config_dir(version_base="1.3", config_dir=CONF):
            cfg = compose("shards", overrides=["from=a", *QUICK, "packing.prefix=p", *overrides])
        return Recipe(**{name: instantiate(cfg[name]) for name in SECTIONS})

    return recipe


@pytest.fixture(scope="session")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten videos with captions: two shots each, one a duplicate, one black, one no video."""
    folder = tmp_path_factory.mktemp("videos")
    for i in range(8):
        shots = np.concatenate([scene(2 * i, 26), scene(2 * i + 1, 30)])
        write_video(folder / f"some/video.{i}.mp4", shots)
        (folder / f"some/video.{i}.txt").write_text(f"caption {i}\n")
    (folder / "again.mp4").write_bytes((folder / "some/video.3.mp4").read_bytes())
    write_video(folder / "black.mp4", np.zeros((30, 96, 128, 3), dtype=np.uint8))
    (folder / "not_a.mp4").write_bytes(b"not a video at all")
    (folder / "notes.md").write_text("not read")
    return folder


@pytest.fixture(scope="session")
def ingest() -> Callable[..., subprocess.Popen]:
    """The command, as a process of its own."""

    def start(place: Path, to: Path, *overrides: str, **options) -> subprocess.Popen:
        command = [sys.executable, "-m", "data.ingest", f"from={place}", f"to={to}"]
        texts = {"text": True, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, **options}
        return subprocess.Popen(
            [*command, *QUICK, "packing.prefix=p", *overrides], start_new_session=True, **texts
        )

    return start
