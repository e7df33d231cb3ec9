"""Tiny videos, and shards of them as webdataset writes them: the library is the format's oracle."""

import io
import json
import struct
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import webdataset
from PIL import Image


def mp4(frames: int = 8, height: int = 32, width: int = 40, fps: int = 8, value: int = 0) -> bytes:
    """An H.264 video; frame i is grey of value + 10 i, with a bright left half."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=fps)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv444p"
        stream.options = {"crf": "0", "preset": "ultrafast"}
        for i in range(frames):
            image = np.full((height, width, 3), (value + 10 * i) % 250, dtype=np.uint8)
            image[:, : width // 2] += 5
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return file.getvalue()


def jpeg(height: int = 32, width: int = 40) -> bytes:
    """A grey picture."""
    file = io.BytesIO()
    Image.new("RGB", (width, height), (90, 90, 90)).save(file, "jpeg")
    return file.getvalue()


def write(path: Path, samples: Iterable[dict[str, Any]]) -> Path:
    """A shard of samples."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with webdataset.TarWriter(str(path)) as writer:
        for sample in samples:
            writer.write(sample)
    return path


def numbered(video: bytes, number: int) -> bytes:
    """The video with a last box `free` that holds a number: other bytes, the same frames."""
    return video + struct.pack(">I4sI", 12, b"free", number)


def clips(count: int, first: int = 0, **size: int) -> list[dict[str, Any]]:
    """Samples `clip_0` … with their number in the json, no two of the same bytes."""
    video = mp4(**size)
    return [
        {
            "__key__": f"clip_{i}",
            "mp4": numbered(video, i),
            "txt": f"caption {i}",
            "json": json.dumps({"number": i}).encode(),
        }
        for i in range(first, first + count)
    ]


@pytest.fixture(scope="session")
def make_mp4() -> Callable[..., bytes]:
    return mp4


@pytest.fixture(scope="session")
def make_jpeg() -> Callable[..., bytes]:
    return jpeg


@pytest.fixture(scope="session")
def write_shard() -> Callable[..., Path]:
    return write


@pytest.fixture(scope="session")
def make_clips() -> Callable[..., list[dict[str, Any]]]:
    return clips


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two shards of 12 and 8 clips: 8 frames of 32×40 at 8 fps."""
    folder = tmp_path_factory.mktemp("shards")
    write(folder / "00000.tar", clips(12))
    write(folder / "00001.tar", clips(8, first=12))
    return folder
