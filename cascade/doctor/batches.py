"""How batches are divided among ranks and micro batches, and the shapes of their clips."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from cascade.doctor.dry import Clips


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """Processes of a run: `count` in all, `local` on one machine; `accumulate` micro batches each.

    `buckets`: gradients are copied into DDP's buckets. `sharded`: weights, gradients, optimizer
    state and EMA weights are divided among the ranks (FSDP).
    """

    count: int
    local: int
    accumulate: int
    buckets: bool
    sharded: bool

    def share(self, batch: int) -> int:
        """Clips per rank in a global batch."""
        return max(1, batch // self.count)

    def divides(self, batch: int) -> bool:
        """Whether a global batch divides evenly among ranks and micro batches."""
        return batch % (self.count * self.accumulate) == 0


def find_ranks(trainer: Mapping[str, Any], *, override: int | None) -> Ranks:
    """The processes that a trainer's config would start on this machine."""
    devices = trainer.get("devices", 1)
    if devices in ("auto", -1):
        devices = max(1, torch.cuda.device_count())
    local = devices if isinstance(devices, int) else len(devices)
    count = override or local * trainer.get("num_nodes", 1)
    strategy = trainer.get("strategy", "auto")
    named = str(strategy.get("_target_") if isinstance(strategy, Mapping) else strategy).lower()
    sharded = any(word in named for word in ("fsdp", "model_parallel", "modelparallel"))
    return Ranks(
        count=count,
        local=min(local, count),
        accumulate=trainer.get("accumulate_grad_batches", 1),
        buckets=not sharded and ("ddp" in named or count > 1),
        sharded=sharded,
    )


@dataclass(frozen=True)
class BatchShape:
    """A global batch of clips of one shape, and the share of batches with this shape."""

    clips: Clips
    share: float


def buckets_of(survey: Any, nominal: Clips) -> list[BatchShape]:
    """The survey's buckets; without a survey, one bucket of the stage's own shape."""
    found = [] if survey is None else [b for b in survey.buckets if b.batch and b.share]
    if not found:
        return [BatchShape(nominal, 1.0)]
    return [
        BatchShape(Clips(int(b.batch), b.frames, b.height, b.width, float(b.fps)), float(b.share))
        for b in found
    ]


def largest(buckets: Sequence[BatchShape]) -> BatchShape:
    """The bucket whose batch has the most pixels."""
    return max(
        buckets,
        key=lambda b: b.clips.count * b.clips.frames * b.clips.height * b.clips.width,
    )
