"""Plan the cost of a step: parameters by part, tokens, FLOPs."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cascade.doctor.batches import BatchShape, Ranks, largest
from cascade.doctor.dry import Clips, DryStage
from cascade.doctor.figure import Figure
from cascade.doctor.findings import Findings
from cascade.doctor.text_cost import FrozenEncoder

#: The most clips whose FLOPs are counted; FLOPs per clip do not depend on the count.
COUNTED = 64
#: The most shapes whose FLOPs are counted; other shapes take the nearest one's FLOPs per token.
SHAPES = 8


@dataclass(frozen=True, kw_only=True)
class Cost:
    """FLOPs of a step of all ranks together.

    `flops` are those of the network and what is trained with it, of which the share `recomputed`
    is due to checkpointing; `text` those of a frozen text encoder. `scale` is the mean FLOPs of a
    global batch relative to one of the largest bucket.
    """

    flops: float
    text: float
    recomputed: float
    scale: float

    @property
    def total(self) -> float:
        """All FLOPs."""
        return self.flops + self.text

    @property
    def trains(self) -> float:
        """The FLOPs that train: without recomputed ones and the frozen encoder's."""
        return self.flops * (1 - self.recomputed)


def plan_parameters(record: Findings, dry: DryStage, encoder: FrozenEncoder | None) -> None:
    """Add the parameters of network, text encoder and codec."""

    def count(module: Any) -> int:
        return sum(p.numel() for p in module.parameters())

    stage = dry.stage
    record.add("network", {"network": Figure(count(stage.net), "counted", "parameters", "trained")})
    if encoder is None:
        text = Figure(count(dry.text), "counted", "parameters", "trained with the stage")
    else:
        note = "frozen" + (", not loaded: embeddings are read from files" * encoder.precomputed)
        text = Figure(encoder.parameters, "estimated", "parameters", f"{note}; {encoder.note}")
    record.add("network", {"text encoder": text})
    codec = Figure(count(stage.codec), "counted", "parameters", type(stage.codec).__name__)
    trained = sum(p.numel() for p in dry.module.parameters() if p.requires_grad)
    record.add("network", {"codec": codec, "all trained": Figure(trained, "counted", "parameters")})


def plan_step(
    record: Findings,
    dry: DryStage,
    buckets: list[BatchShape],
    ranks: Ranks,
    encoder: FrozenEncoder | None,
    options: Mapping[str, Any],
) -> Cost:
    """Add the cost of a step."""
    batch = dry.stage.recipe.global_batch
    if not ranks.divides(batch):
        each = ranks.count * ranks.accumulate
        nearest = max(1, round(batch / each)) * each
        record.advise(
            "error",
            f"the global batch of {batch} is not a multiple of {ranks.count} ranks × "
            f"{ranks.accumulate} accumulated batches",
            f"stage.train.global_batch={nearest}, or another number of ranks",
        )
    multiple = dry.stage.multiple

    def tokens(clips: Clips) -> int:
        sides = (clips.frames, clips.height, clips.width)
        return math.prod(max(1, side // m) for side, m in zip(sides, multiple, strict=True))

    counted: dict[int, tuple[int, float]] = {}  # tokens of a clip → its own, its FLOPs
    by_share = sorted(buckets, key=lambda b: -b.share)[:SHAPES]
    for bucket in by_share:
        some = bucket.clips.times(min(bucket.clips.count, COUNTED))
        counted[tokens(some)] = (tokens(some), dry.flops(some) / some.count)

    def flops(clips: Clips) -> float:
        own = tokens(clips)
        nearest, cost = counted[min(counted, key=lambda known: abs(known - own))]
        return cost * own / nearest

    shares = sum(b.share for b in buckets)
    total = sum(b.share * b.clips.count * flops(b.clips) for b in buckets) / shares
    per_step = sum(b.share * b.clips.count * tokens(b.clips) for b in buckets) / shares
    recomputed = 0.0
    if dry.checkpointing:
        every, again = dry.flops_with_recomputed(by_share[0].clips.times(1))
        recomputed = 1 - (every - again) / every
    how = f"of {multiple[0]}×{multiple[1]}×{multiple[2]} pixels"
    kinds = len({tokens(b.clips) for b in buckets})
    read = 0 if encoder is None else encoder.flops(batch, options["text_tokens"])
    record.add(
        "step",
        {
            "clips per step": Figure(batch, "counted", "clips", "the global batch"),
            "clips per rank": Figure(
                ranks.share(batch) // ranks.accumulate or 1,
                "counted",
                "clips",
                f"per micro batch; {ranks.count} rank(s) × {ranks.accumulate} micro batch(es)",
            ),
            "tokens per clip": Figure(tokens(by_share[0].clips), "counted", "tokens", how),
            "tokens per step": Figure(round(per_step), "counted", "tokens"),
            "FLOPs per step": Figure(
                total, "counted", "FLOPs", f"forward and backward, {kinds} shape(s)"
            ),
            "recomputed": Figure(recomputed, "counted", "share", "by activation checkpointing"),
        },
    )
    if encoder is not None:
        note = "frozen, embeddings read from files" if encoder.precomputed else "frozen, forward"
        record.add("step", {"FLOPs of the text encoder": Figure(read, "estimated", "FLOPs", note)})
    most = largest(buckets).clips
    return Cost(
        flops=total, text=read, recomputed=recomputed, scale=total / (most.count * flops(most))
    )
