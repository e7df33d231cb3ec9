"""Indices of any number of shards that nobody has, as the real writer writes them.

Sizes, rates, durations, bytes and captions are spread like those of clips cut from web videos.
"""

import argparse
from pathlib import Path

import numpy as np
import pyarrow as pa

from data.index.index_file import VERSION, write_index
from data.index.sidecar import index_path

SIZES = np.array(  # width, height, and how many of a hundred have it
    [
        *((1280, 720, 38), (1920, 1080, 14), (640, 360, 12), (854, 480, 8), (720, 1280, 6)),
        *((480, 360, 5), (426, 240, 4), (640, 480, 4), (576, 1024, 3), (720, 720, 2)),
        *((480, 480, 1), (1024, 576, 1), (1008, 432, 1), (3840, 2160, 1)),
    ]
)
RATES = np.array([23.976, 24.0, 25.0, 29.97, 30.0, 50.0, 60.0], dtype=np.float32)
REASONS = [
    "",
    "container does not open: Invalid data found when processing input",
    "caption or json without a video or image",
    "duplicate key",
    "claims 12336×12336 pixels, more than the limit of 35389440",
]


def write_synthetic(
    folder: Path,
    *,
    shards: int = 1000,
    samples: int = 10_000,
    images: float = 0.1,
    unfit: float = 0.03,
    mute: float = 0.02,
    seed: int = 0,
) -> tuple[list[str], list[Path]]:
    """The names of `shards` shards, which are not there, and their indices of `samples` lines each.

    `images`, `unfit` and `mute` (without a caption) are shares of the samples.
    """
    names = [str(folder / f"{number:05d}.tar") for number in range(shards)]
    paths = [index_path(name, None) for name in names]
    for number, path in enumerate(paths):
        draw = np.random.default_rng((seed, number))
        columns, size = _columns(draw, number, samples, images, unfit, mute)
        bad = int(np.count_nonzero(columns["reason"].indices))
        write_index(
            path,
            columns,
            {
                "version": VERSION,
                "depth": "full",
                "shard_size": size,
                "mark": "0",
                "shard_hash": draw.bytes(16).hex(),
                "fit": samples - bad,
                "unfit": {"of some kind": bad} if bad else {},
                "others": {},
                "interleaved": 0,
                "error": "",
            },
        )
    return names, paths


def _columns(draw, number, count, images, unfit, mute):
    image = draw.random(count) < images
    reason = np.where(draw.random(count) < unfit, draw.integers(1, len(REASONS), count), 0)
    readable = reason == 0
    chances = SIZES[:, 2] / SIZES[:, 2].sum()
    size = SIZES[draw.choice(len(SIZES), count, p=chances), :2] * readable[:, None]
    fps = np.where(image, 1, draw.choice(RATES, count)).astype(np.float32) * readable
    length = np.clip(draw.lognormal(np.log(7), 0.8, count), 0.5, 120)
    frames = np.where(image, 1, np.maximum(1, np.round(length * fps))).astype(np.int32) * readable
    duration = np.divide(frames, fps, out=np.zeros(count), where=fps > 0)
    bits = np.where(image, 2.0, 0.08 * np.maximum(frames, 1)) * draw.lognormal(0, 0.5, count)
    video = np.maximum(200, size.prod(axis=1) * bits / 8).astype(np.int64)
    text, state = draw.integers(20, 300, count), draw.integers(300, 2000, count)
    blocks = np.stack([512 + -(-part // 512) * 512 for part in (state, video, text)], axis=1)
    starts = np.concatenate([[0], np.cumsum(blocks)])[:-1].reshape(count, 3) + 512
    first = number * count
    columns = {
        "key": [f"{i // 7:09d}_{i % 7:05d}" for i in range(first, first + count)],
        "content": draw.integers(0, 2**64, count, dtype=np.uint64),
        "sample": draw.integers(0, 2**64, count, dtype=np.uint64),
        "kind": _words(np.where(readable, 1 + image, 0), ["", "video", "image"]),
        "offset": starts[:, 1],
        "size": video,
        "caption_offset": starts[:, 2],
        "caption_size": text,
        "state_offset": starts[:, 0],
        "state_size": state,
        "captioned": draw.random(count) >= mute,
        "width": size[:, 0],
        "height": size[:, 1],
        "frames": frames,
        "fps": fps,
        "duration": duration,
        "codec": _words(np.where(readable, 1 + image, 0), ["", "h264", "jpeg"]),
        "decord": readable & ~image & (draw.random(count) < 0.9),
        "reason": _words(reason, REASONS),
    }
    return columns, int(blocks.sum()) + 1024


def _words(codes, words):
    return pa.DictionaryArray.from_arrays(pa.array(codes, pa.int32()), pa.array(words))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--shards", type=int, default=1000)
    parser.add_argument("--samples", type=int, default=10_000)
    chosen = parser.parse_args()
    write_synthetic(chosen.folder, shards=chosen.shards, samples=chosen.samples)
