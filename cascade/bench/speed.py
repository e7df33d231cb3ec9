"""All figures of a stage's speed."""

import contextlib
import logging
import resource
import statistics
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig, open_dict

from cascade.bench.clips import CAPTION
from cascade.bench.steps import Measured, Rounds, fit
from cascade.flops import device_peak, forward_flops, measured_matmul_peak, parameter_count
from cascade.shrink import resolved
from cascade.stage import TrainableStage, as_module

#: The smallest numbers of steps; the first step is never timed.
LEAST = {"warmup": 1, "rounds": 1, "profiled": 0, "sampled": 0}


def bench(cfg: DictConfig, *, callbacks: Sequence[pl.Callback] = ()) -> dict[str, Any]:
    """Train the stage of a config for a few steps, and return all figures of it.

    Raises:
        ValueError: a number of steps is too small, or a trace is wanted of no step.
    """
    for name, least in LEAST.items():
        value = cfg.bench[name]
        if type(value) is not int or value < least:
            raise ValueError(f"bench.{name}={value}: must be a whole number of at least {least}")
    if cfg.bench.trace is not None and not cfg.bench.profiled:
        raise ValueError(
            f"bench.trace={cfg.bench.trace} has the profiled steps, but bench.profiled=0; set "
            "bench.profiled=3"
        )
    cfg = cfg.copy()
    with open_dict(cfg):
        cfg.logger = {}  # the bench writes to a folder of its own
    config, options = resolved(cfg), cfg.bench
    rounds = Rounds(warmup=options.warmup, timed=options.rounds, profiled=options.profiled)
    with quiet():
        measured, stage = fit(config, rounds, loader=options.loader, callbacks=callbacks)
    if options.trace is not None and measured.kernels is not None:
        measured.kernels.save(Path(options.trace))
    figures = summary(measured, stage)
    if options.sampled:
        device = "cpu" if figures["device"] == "cpu" else "cuda"
        figures["sample_s"] = sampling(stage, options.sampled, device)
    return figures


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without Lightning's announcements."""
    log = logging.getLogger("pytorch_lightning.utilities.rank_zero")
    level = log.level
    log.setLevel(logging.WARNING)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="pytorch_lightning")
        try:
            yield
        finally:
            log.setLevel(level)


def summary(measured: Measured, stage: TrainableStage) -> dict[str, Any]:
    """The figures of timed steps as plain values."""
    cuda = torch.cuda.is_available() and measured.peak_bytes is not None
    device = torch.device("cuda" if cuda else "cpu")
    step, clips = measured.step_s, len(measured.shapes) / len(measured.steps_s)
    flops = flops_of(stage, measured.shapes) / len(measured.steps_s)
    peak = peak_of(device, measured.precision)
    found = None if measured.kernels is None else measured.kernels.figures()
    busy = 0.0 if found is None else found["busy_s"]
    return {
        "stage": stage.name,
        "device": torch.cuda.get_device_name() if cuda else "cpu",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "precision": measured.precision,
        "shapes": [
            "×".join(map(str, shape)) for shape, _ in Counter(measured.shapes).most_common()
        ],
        "clips_per_step": clips * measured.world,
        "parameters": parameter_count(as_module(stage)),
        "first_step_s": measured.first_s,
        "step_s": {"median": step, "min": min(measured.steps_s), "max": max(measured.steps_s)},
        "clips_per_s": clips * measured.world / step,
        "parts_s": measured.parts_s,
        "divided_step_s": measured.divided_s,
        "training_flops": flops,
        "tflop_per_s": flops / step / 1e12,
        "peak_tflop_per_s": peak / 1e12,
        "share_of_peak": flops / step / peak,
        "peak_memory_bytes": measured.peak_bytes or resident_peak(),
        # Without permission to read the GPU's counters, the profiler finds no kernels.
        "idle_share": max(0.0, 1 - busy / step) if cuda and busy else None,
        "kernels": found,
        "compiled": measured.compiled,
        "loss": measured.loss,
    }


def flops_of(stage: TrainableStage, shapes: Sequence[tuple[int, int, int]]) -> float:
    """FLOPs of training on clips of these shapes; a backward pass has twice those of a forward."""
    counted = Counter(shapes)
    return sum(3 * n * forward_flops(stage.dry_forward(shape)) for shape, n in counted.items())


def peak_of(device: torch.device, precision: str) -> float:
    """The device's matrix peak in FLOP/s: its data sheet's, or measured."""
    half = device.type == "cuda" and ("16-" in precision or "bf16" in precision)
    dtype = torch.bfloat16 if half else torch.float32
    return device_peak(device, dtype) or measured_matmul_peak(device, dtype)


def resident_peak() -> int:
    """The process's largest resident memory so far, in bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def sampling(stage: TrainableStage, steps: int, device: str, rounds: int = 3) -> float:
    """Seconds of `steps` sampler steps for one video; the median of `rounds` after another."""
    stage.to(device)
    low = stage.kind.reduce(torch.zeros(1, 3, *stage.target.shape, device=device))
    times = []
    for _ in range(rounds + 1):
        began = time.perf_counter()
        stage.sample([CAPTION], grid=stage.target, seeds=[0], low=low, steps=steps).cpu()
        times.append(time.perf_counter() - began)
    return statistics.median(times[1:])
