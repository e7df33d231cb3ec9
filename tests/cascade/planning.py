"""A plan of a stage whose data is made up."""

import time
from dataclasses import dataclass, field
from typing import Any

import torch

from cascade.doctor.checkup import checkup
from cascade.doctor.findings import Findings

CAPTION = "a small red circle moves left on a black background"


@dataclass
class FakeBucket:
    kind: str = "video"
    frames: int = 8
    height: int = 16
    width: int = 16
    fps: float = 4.0
    clips: int = 900
    batch: int = 32
    tokens: int = 64
    share: float = 1.0
    unused: float = 0.0
    cropped: float = 0.01


@dataclass
class FakeSurvey:
    samples: int = 1000
    train: int = 900
    held: int = 20
    images: int = 0
    unasked: int = 0
    dropped: dict[str, int] = field(default_factory=lambda: {"too short": 70, "no caption": 10})
    budget: int = 2048
    buckets: list[Any] = field(default_factory=lambda: [FakeBucket()])
    unused: float = 0.01
    cropped: float = 0.01
    cache_bytes: dict[str, float] = field(default_factory=lambda: {"index": 12345.0})
    batches_per_epoch: float = 90.0
    decoded_bytes: float = 3e6
    stored_side: float = 360.0
    needed_side: int = 16


class FakeData:
    """Batches of noise, in the loader's form; a loader that takes `seconds` per batch."""

    def __init__(self, grid, captions=(CAPTION,), seconds=0.0):
        self.grid, self.captions, self.seconds = grid, captions, seconds

    def train_loader(self, *, first, count, rank, world, accumulate):
        size = 32 // (world * accumulate)
        for number in range(first, first + count):
            time.sleep(self.seconds)
            yield {
                "video": torch.zeros((size, 3, *self.grid), dtype=torch.uint8),
                "fps": torch.full((size,), 4.0),
                "zoom": torch.ones(size),
                "caption": [self.captions[i % len(self.captions)] for i in range(size)],
                "key": [str(i) for i in range(size)],
                "position": torch.arange(size) + number * size,
                "state": [{} for _ in range(size)],
            }


def planned(config, data=None, survey=None, stage="demo/base"):
    record = Findings(stage=stage, facts={"run": "default"})
    checkup(record, config, data, survey)
    return record
