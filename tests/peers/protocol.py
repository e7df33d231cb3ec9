"""Code shared by both sides of a comparison: workloads, text, clips, timing and the protocol.

A side is a process that reads one JSON request per line and answers with one line. Between
requests it only waits, so sides that are asked alternately never run at the same time. All counting
and timing is in this module, so it is equal for both.
"""

import hashlib
import json
import os
import re
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

sys.path.append(str(Path(__file__).resolve().parents[2]))  # last: the peer's packages come first

from cascade.flops import parameter_count, training_flops

FRAMES = 8
TEXT_WIDTH = 512


@dataclass(frozen=True)
class Workload:
    """A video of `FRAMES` × `size` × `size`; super-resolution starts from `low` × `low` pixels."""

    size: int
    low: int | None = None


WORKLOADS = {"base 16": Workload(16), "base 32": Workload(32), "sr 16→32": Workload(32, low=16)}


@cache
def word_vector(word: str) -> Tensor:
    """A fixed standard normal draw, seeded by the word's hash; nothing to download."""
    seed = int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "big") >> 1
    return torch.randn(TEXT_WIDTH, generator=torch.Generator().manual_seed(seed))


def embed(captions: Sequence[str]) -> tuple[Tensor, Tensor]:
    """One vector per word (b l d) and the mask of words (b l), without positions."""
    words = [re.findall(r"\w+", caption.lower()) for caption in captions]
    tokens = torch.zeros(len(words), max(1, *map(len, words)), TEXT_WIDTH)
    mask = torch.zeros(tokens.shape[:2], dtype=torch.bool)
    for row, sentence in enumerate(words):
        for column, word in enumerate(sentence):
            tokens[row, column] = word_vector(word)
            mask[row, column] = True
    return tokens, mask


@dataclass(frozen=True)
class Clips:
    """A batch: uint8 video (b c f h w), captions, and each clip's number in the run."""

    video: Tensor
    captions: list[str]
    positions: list[int]


def noise_clips(workload: Workload, count: int) -> Clips:
    """A batch of random pixels with one caption."""
    shape = (count, 3, FRAMES, workload.size, workload.size)
    caption = "a small red circle moves left on a black background"
    return Clips(
        torch.randint(0, 256, shape, dtype=torch.uint8), [caption] * count, list(range(count))
    )


class Corpus:
    """Decoded clips in memory, shuffled in every epoch in the same order for both sides."""

    def __init__(self, path: str) -> None:
        with np.load(path) as content:
            self.video = torch.from_numpy(content["video"])
            self.captions = content["captions"].tolist()
        self._order: dict[int, list[int]] = {}

    def batch(self, first: int, count: int) -> Clips:
        """`count` clips from position `first`."""
        positions = list(range(first, first + count))
        rows = [self._row(position) for position in positions]
        return Clips(self.video[rows], [self.captions[row] for row in rows], positions)

    def _row(self, position: int) -> int:
        epoch, index = divmod(position, len(self.captions))
        if epoch not in self._order:
            generator = torch.Generator().manual_seed(epoch)
            self._order = {epoch: torch.randperm(len(self.captions), generator=generator).tolist()}
        return self._order[epoch][index]


class Side(ABC):
    """One system of the comparison: how to build it, take a training step, and sample."""

    def __init__(self) -> None:
        self.workload = WORKLOADS["base 16"]
        self.corpus: Corpus | None = None
        self.steps, self.clips, self.seconds = 0, 0, 0.0

    @abstractmethod
    def make(self, workload: Workload, options: dict[str, Any]) -> nn.Module:
        """Set up the model and its trainer; returns the trained module."""

    @abstractmethod
    def loss(self, clips: Clips) -> Tensor:
        """The training loss, with its graph."""

    @abstractmethod
    def step(self, clips: Clips, *, done: float) -> float:
        """Forward, backward, optimizer, EMA; `done` is the share of the run that is over."""

    @abstractmethod
    def sample(self, captions: list[str], *, first: int, **settings: Any) -> Tensor:
        """Videos in uint8, (b c f h w); `first` is the index of the first prompt."""

    def build(self, *, workload: str, **options: Any) -> dict[str, Any]:
        """Build a new system; returns the number of trained parameters."""
        torch.manual_seed(0)
        self.workload = WORKLOADS[workload]
        self.steps, self.clips, self.seconds = 0, 0, 0.0
        return {"parameters": parameter_count(self.make(self.workload, options))}

    def flops(self, *, batch: int) -> dict[str, Any]:
        """FLOPs of the forward and backward pass, per clip."""
        clips = noise_clips(self.workload, batch)
        return {"flops_per_clip": training_flops(lambda: self.loss(clips)) / batch}

    def speed(self, *, batch: int, seconds: float, least: int = 1) -> dict[str, Any]:
        """Clips per second of whole training steps, for `seconds` and at least `least` steps."""
        clips = noise_clips(self.workload, batch)
        began, busy, steps = time.perf_counter(), time.process_time(), 0
        while steps < least or time.perf_counter() - began < seconds:
            self.step(clips, done=0.0)
            steps += 1
        wall = time.perf_counter() - began
        return {
            "clips_per_s": steps * batch / wall,
            "steps": steps,
            "cores": (time.process_time() - busy) / wall,
        }

    def learn(self, *, corpus: str, batch: int, seconds: float, of: float) -> dict[str, Any]:
        """Train for `seconds` more of a run of `of` seconds."""
        self.corpus = self.corpus or Corpus(corpus)
        began, busy, losses = time.perf_counter(), time.process_time(), []
        while (passed := time.perf_counter() - began) < seconds:
            done = min(1.0, (self.seconds + passed) / of)
            losses.append(self.step(self.corpus.batch(self.clips, batch), done=done))
            self.steps, self.clips = self.steps + 1, self.clips + batch
        wall = time.perf_counter() - began
        self.seconds += wall
        return {
            "steps": self.steps,
            "clips": self.clips,
            "seconds": self.seconds,
            "loss": sum(losses) / len(losses),
            "cores": (time.process_time() - busy) / wall,
        }

    def show(
        self, *, prompts: list[str], batch: int, path: str, settings: dict[str, Any]
    ) -> dict[str, Any]:
        """Sample a video per prompt into a numpy file at `path`."""
        began = time.perf_counter()
        videos = [
            self.sample(prompts[first : first + batch], first=first, **settings)
            for first in range(0, len(prompts), batch)
        ]
        seconds = time.perf_counter() - began
        np.save(path, torch.cat(videos).numpy())
        return {"seconds_per_video": seconds / len(prompts)}


def serve(side: Side) -> None:
    """Answer requests until the input ends; output of libraries goes to stderr."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    operations: dict[str, Callable[..., dict[str, Any]]] = {
        "build": side.build,
        "flops": side.flops,
        "speed": side.speed,
        "learn": side.learn,
        "show": side.show,
    }
    for line in sys.stdin:
        request = json.loads(line)
        answer = operations[request.pop("do")](**request)
        answers.write(json.dumps(answer) + "\n")
