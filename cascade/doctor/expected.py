"""Predict a step's time on a GPU by part, its share of the peak, and what would raise the share."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cascade.doctor.batches import Ranks
from cascade.doctor.cost import Cost
from cascade.doctor.figure import Figure, format_value
from cascade.doctor.loading import Loading
from cascade.doctor.micro_batch import MicroBatch
from cascade.doctor.speed import LAUNCH, Rates
from cascade.doctor.works import Works

#: Bytes per parameter to clip the gradient: its norm reads it, and scaling reads and writes it.
CLIP_BYTES = 12
#: The share of a step from which a part is named, and a way to reduce it.
NAMED = 0.10


@dataclass(frozen=True, kw_only=True)
class Expected:
    """A step of one rank: seconds by part, the FLOPs that train (without recomputed ones)."""

    parts: dict[str, float]
    flops: float
    micro: int
    accumulate: int
    rates: Rates
    loading: Loading

    @property
    def step_s(self) -> float:
        """Seconds of a step with all its micro batches."""
        return sum(self.parts.values())

    @property
    def share(self) -> float:
        """The share of the device's matrix peak."""
        return self.flops / self.step_s / self.rates.peak

    @property
    def single_s(self) -> float:
        """Seconds of one micro batch's step, each followed by the optimizer, without data."""
        once = self.parts["optimizer"]
        return (self.step_s - once - self.parts["data"]) / self.accumulate + once

    @property
    def workers(self) -> int:
        """Loader processes that keep up with the step."""
        without = (self.step_s - self.parts["data"]) / self.accumulate
        return max(1, math.ceil(self.loading.seconds / without))

    @property
    def why(self) -> str:
        """In one line, what the step's time is spent on."""
        shares = sorted(((s / self.step_s, name) for name, s in self.parts.items()), reverse=True)
        return "; ".join(
            f"{TITLES[name]} {format_value(round(share, 3), 'share')}"
            for share, name in shares
            if share >= 0.02
        )

    def ways(self, settings: Mapping[str, str]) -> str:
        """In one line, what would raise the share, the largest part first.

        `settings` gives a way for each part that can be reduced.
        """
        parts = sorted(self.parts, key=lambda name: -self.parts[name])
        ways = [settings[p] for p in parts if p in settings and self.parts[p] > NAMED * self.step_s]
        return "; ".join(ways) or "little: nothing beside the products takes a tenth of the step"

    @property
    def best(self) -> float:
        """The share of the peak that large products reach."""
        return round(self.rates.linear / self.rates.peak, 3)


TITLES = {
    "products": "matrix products",
    "attention": "attention",
    "elementwise": "elementwise kernels",
    "optimizer": "the optimizer",
    "text": "the frozen text encoder",
    "launches": "waiting for launches",
    "data": "waiting for data",
}


def expected(
    works: Works,
    found: MicroBatch,
    rates: Rates,
    cost: Cost,
    ranks: Ranks,
    loading: Loading,
    *,
    compiled: bool,
    trained: int,
    clipped: bool,
) -> Expected | None:
    """The expected step of one rank; None if its work was not counted.

    If the planned micro batch does not fit the device, it is the suggested one. `trained` is the
    number of trained parameters; `clipped`: gradients are clipped. Work of other shapes than the
    counted one has its share of the FLOPs. Communication between ranks is neglected.
    """
    micro, accumulate = found.runs(ranks.accumulate)
    network = works.spent(("forward", "backward"), micro, rates, compiled=compiled)
    optimizer = works.spent(("optimizer",), micro, rates, compiled=False)
    averages = works.spent(("averages",), micro, rates, compiled=False)
    if network is None or optimizer is None or averages is None:
        return None
    divided = ranks.count if ranks.sharded else 1
    clip = clipped * CLIP_BYTES * trained / rates.bandwidth
    once = optimizer.plus(averages)
    once_s = once.products / ranks.count + (once.elementwise + clip) / divided
    each = accumulate * cost.scale
    parts = {
        "products": each * network.products,
        "attention": each * network.attention,
        "elementwise": each * network.elementwise,
        "optimizer": once_s,
        "text": cost.text / ranks.count / rates.linear,
    }
    launched = LAUNCH * (accumulate * network.kernels + once.kernels)
    parts["launches"] = max(0.0, launched - sum(parts.values()))
    wait = loading.wait(sum(parts.values()) / accumulate)
    return Expected(
        parts=parts | {"data": accumulate * wait},
        flops=cost.trains / ranks.count,
        micro=micro,
        accumulate=accumulate,
        rates=rates,
        loading=loading,
    )


def settings(
    config: Mapping[str, Any], made: Expected, *, compiled: bool, recomputed: bool
) -> dict[str, str]:
    """For each part of a step, the setting that reduces it."""
    net = config["stage"]["net"]
    wider = f"a wider network (stage.net.{'widths' if 'widths' in net else 'width'})"
    ways = {
        "elementwise": wider if compiled else "stage.train.compile=null: compiled blocks",
        "optimizer": "more clips a step: a larger stage.train.global_batch, accumulated by "
        "trainer.accumulate_grad_batches if it does not fit",
        "text": "make embeddings, then stage.text.embeddings=…",
        "launches": "a larger micro batch",
        "data": f"data.loading.num_workers={made.workers}",
    }
    if net.get("head_width", 64) < 128:
        ways["attention"] = "stage.net.head_width=128"
    if recomputed:
        ways["products"] = "stage.net.checkpointing=false, if memory allows"
    return ways


def figures(made: Expected, ways: str, *, compiled: bool) -> dict[str, Figure]:
    """The figures of an expected step."""
    how = "compiled" if compiled else "not compiled"
    batches = f"{made.accumulate} micro batch(es) of {made.micro} clips on each rank"
    notes = {
        "products": f"and convolutions, at up to {format_value(made.best, 'share')} of the peak",
        "elementwise": f"blocks {how}; bytes over the memory's bandwidth",
        "optimizer": "with EMA and gradient clipping",
        "data": f"{made.loading.workers} workers",
    }
    step = made.step_s
    return {
        "step, predicted": Figure(step, "estimated", "s", f"{batches}; no communication"),
        **{
            f"of it {TITLES[name]}": Figure(seconds, "estimated", "s", notes.get(name, ""))
            for name, seconds in made.parts.items()
            if seconds
        },
        "share of peak, predicted": Figure(
            made.share, "estimated", "share", f"of {format_value(made.rates.peak, 'FLOP/s')}"
        ),
        "why not more": Figure(made.why, "estimated"),
        "raised by": Figure(ways, "estimated"),
        "workers needed": Figure(
            made.workers,
            "estimated",
            "",
            f"one loader process takes {format_value(made.loading.seconds, 's')} "
            f"({made.loading.how}) for a micro batch",
        ),
    }
