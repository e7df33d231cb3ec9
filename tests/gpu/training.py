"""Rows of real training steps, with all callbacks and batches from memory."""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from torch import Tensor
from torch.nn.attention import SDPBackend

from cascade import transfer
from cascade.bench.speed import bench
from cascade.ema import PowerEMA
from cascade.entry import CONF
from cascade.nn import attention
from tests.gpu.rows import Figures, Row
from tests.gpu.timing import DEVICE

Patch = Callable[[], AbstractContextManager[Any]]
EAGER = "stage.train.compile=false"


def composed(
    stage: str, small: bool, *overrides: str, root: str = "bench", **options: int
) -> DictConfig:
    """The config of a stage on this machine, of `single_gpu` if its cascade is not named.

    `options` are keys of `bench`.
    """
    choice = stage if "/" in stage else f"single_gpu/{stage}"
    common = [f"stage={choice}", f"trainer={trainer()}"]
    if root == "bench":
        common += ["logger=[]", "bench.loader=false", "bench.sampled=0"]
    if small:
        common += ["shrink={steps: 1000, batch: 8}"]
    with initialize_config_dir(version_base="1.3", config_dir=CONF):
        own = [f"bench.{name}={value}" for name, value in options.items()]
        return compose(root, overrides=[*common, *own, *overrides])


def trainer() -> str:
    """The trainer of this machine."""
    return "gpu" if DEVICE == "cuda" else "cpu"


def steps(small: bool, out: Path) -> list[Row]:
    """Steps of M, L, S and L with 8,192 tokens a clip, then M with one thing changed."""
    clips = 8 if DEVICE == "cpu" or memory_gib() > 100 else 4
    one, middle, eight = (f"stage.train.global_batch={n * clips}" for n in (1, 2, 8))
    trace = f"bench.trace={out / 'M.json.gz'}"
    accumulated = [eight, "trainer.accumulate_grad_batches=8"]
    long = ["stage.net.patch=[2,2,2]", f"stage.train.global_batch={clips // 4}"]
    many, few = {"rounds": 12, "profiled": 3}, {"rounds": 4, "profiled": 1}
    if small:
        many, few = {"rounds": 2, "profiled": 1}, {"rounds": 2, "profiled": 1}
    rows = [
        Row("M, compiled", partial(step, "bench/m", small, middle, trace, **many)),
        Row("M, eager", partial(step, "bench/m", small, middle, EAGER, **many)),
        Row(f"L, {clips} clips, compiled", partial(step, "bench/l", small, one, **many)),
        Row(
            f"L, 8 × {clips} clips, compiled", partial(step, "bench/l", small, *accumulated, **few)
        ),
        Row(f"L, {clips} clips, eager", partial(step, "bench/l", small, one, EAGER, **few)),
        Row("S, compiled", partial(step, "base", small, **many)),
        Row("S, eager", partial(step, "base", small, EAGER, **many)),
        Row("L of 8,192 tokens, compiled", partial(step, "bench/l", small, *long, **few)),
    ]
    for name, (overrides, changed) in VARIANTS.items():
        own = {"rounds": 2 if small else 6, "profiled": 0}
        work = partial(step, "bench/m", small, middle, *overrides, changed=changed, **own)
        rows.append(Row(f"M, {name}", work))
    return rows


def super_resolution(small: bool) -> list[Row]:
    """Steps of a stage of spatial super-resolution, as narrow as it was and wider."""
    options = {"rounds": 2 if small else 12, "profiled": 1 if small else 3}
    return [
        Row(
            f"ssr1 of {widths}, {'eager' if own else 'compiled'}",
            partial(
                step,
                "ssr1",
                small,
                f"stage.net.widths={widths}",
                "stage.train.global_batch=32",
                *own,
                **options,
            ),
        )
        for widths in ("[128,256]", "[256,512]")
        for own in ([], [EAGER])
    ]


def step(
    stage: str, small: bool, *overrides: str, changed: Patch = nullcontext, **options: int
) -> Figures:
    """Figures of real steps of a stage."""
    with changed():
        found = bench(composed(stage, small, *overrides, **options))
    code, kernels = found["compiled"] or {}, found["kernels"] or {}
    return {
        "clips": found["clips_per_step"],
        "first_s": found["first_step_s"],
        "compile_s": code.get("seconds"),
        "graphs": code.get("graphs"),
        "breaks": code.get("breaks"),
        "step_ms": 1e3 * found["step_s"]["median"],
        "clips_per_s": found["clips_per_s"],
        "tflop_per_s": found["tflop_per_s"],
        "share_of_peak": found["share_of_peak"],
        "idle_share": found["idle_share"],
        "peak_gib": found["peak_memory_bytes"] / 2**30,
        "kernels_a_step": kernels.get("launches"),
        "parts_ms": {part: 1e3 * spent for part, spent in found["parts_s"].items()},
        "kinds": kernels.get("kinds"),
        "top": [
            f"{k['share']:.1%} ×{k['count']:g} {k['name'][:60]}" for k in kernels.get("top", ())
        ],
    }


@contextmanager
def averages_every(number: int) -> Iterator[None]:
    """Averages that are updated in every `number`-th step alone."""
    update = PowerEMA.update

    def seldom(self: PowerEMA, module: Any, step: int) -> None:
        if step % number == 0:
            update(self, module, step)

    with patch.object(PowerEMA, "update", seldom):
        yield


@contextmanager
def blocking_copies() -> Iterator[None]:
    """Copies to the GPU for which the CPU waits, from memory that is not pinned."""
    sent = transfer.sent
    users = [m for m in sys.modules.values() if getattr(m, "sent", None) is sent]
    for module in users:
        module.sent = lambda values, device: values.to(device)
    try:
        yield
    finally:
        for module in users:
            module.sent = sent


@contextmanager
def unmasked() -> Iterator[None]:
    """Attention to all tokens of the text, its padding too."""
    attend = attention.attend

    def to_all(q: Tensor, k: Tensor, v: Tensor, *, mask: Any = None, segments: Any = None) -> Any:
        del mask
        return attend(q, k, v, segments=segments)

    with patch.object(attention, "attend", to_all):
        yield


#: What is changed for a step of M: overrides, and a context.
VARIANTS: Mapping[str, tuple[Sequence[str], Patch]] = {
    "without averages": (["~callbacks.ema"], nullcontext),
    "averages every 8th step": ([], partial(averages_every, 8)),
    "without guard and diagnostics": (["~callbacks.guard", "~callbacks.diagnostics"], nullcontext),
    "text alone": (["stage.train.modes.only=text"], nullcontext),
    "blocking copies": ([], blocking_copies),
    "flash": ([], lambda: patch.object(attention, "KERNELS", [SDPBackend.FLASH_ATTENTION])),
    "text without its mask": ([], unmasked),
    "heads of 64": (["stage.net.head_width=64"], nullcontext),
}


def memory_gib() -> float:
    """The GPU's memory."""
    return float(torch.cuda.get_device_properties(0).total_memory) / 2**30
