"""Speed of a stage as JSON, on CPU or GPU: training step, sampling and data loading.

`python -m cascade.bench stage=demo/base`. The parts run in turn for several rounds, so that a drift
of the machine's speed affects all of them. It reports medians with minimum and maximum, and FLOPs
with the share of the device's matrix peak.
"""

import json
import logging
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import hydra
import torch
from omegaconf import DictConfig, OmegaConf

from cascade.entry import check_choices, command
from cascade.flops import device_peak, measured_matmul_peak, parameter_count, training_flops
from cascade.grid import Grid
from cascade.opening import open_data
from cascade.stage import TrainableStage, as_module

log = logging.getLogger(__name__)


def spread(values: list[float]) -> dict[str, float]:
    """Median, minimum and maximum."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def timed(work: Callable[[], Any], device: torch.device) -> float:
    """Seconds that `work` takes, with the device synchronised before and after."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    began = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def training_batch(stage: TrainableStage, grid: Grid, size: int) -> dict[str, Any]:
    """A batch of noise in the loader's format."""
    shape = (size, 3, *grid.shape)
    return {
        "video": torch.randint(0, 256, shape, dtype=torch.uint8, device=stage.device),
        "fps": torch.full((size,), grid.fps, device=stage.device),
        "zoom": torch.ones(size, device=stage.device),
        "caption": ["a small red circle moves left on a black background"] * size,
        "position": torch.arange(size),
        "key": [str(i) for i in range(size)],
    }


def bench(cfg: DictConfig) -> dict[str, Any]:
    """All measurements of the stage in `cfg`."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    config: Any = OmegaConf.to_container(cfg, resolve=True)
    stage: TrainableStage = hydra.utils.instantiate(config["stage"], _convert_="all")
    stage.configure_model()
    stage.to(device)
    recipe = stage.recipe
    frames, height, width = recipe.crop or stage.target.shape
    grid = Grid(frames=frames, height=height, width=width, fps=stage.target.fps)
    size = cfg.bench.batch or recipe.global_batch
    batch = training_batch(stage, grid, size)
    optimizer = recipe.optimizer(stage)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32

    def step() -> None:
        with torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32):
            loss = stage.losses(batch, purpose="bench").loss.mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    low = stage.kind.reduce(torch.zeros(1, 3, *stage.target.shape, device=device))

    def sample() -> None:
        stage.sample(
            ["a small red circle moves left"], grid=stage.target, seeds=[0], low=low, steps=2
        )

    work: dict[str, Callable[[], Any]] = {"training_step_s": step, "sample_2_steps_s": sample}
    loader = None
    if cfg.bench.loader:
        data = open_data(config, stage)
        data.prepare_data()
        data.setup("fit")
        batches = cfg.bench.warmup + cfg.bench.rounds
        loader = iter(data.train_loader(first=0, count=batches))
        work["load_batch_s"] = lambda: next(loader)
    times: dict[str, list[float]] = {name: [] for name in work}
    for turn in range(cfg.bench.warmup + cfg.bench.rounds):
        for name, one in work.items():
            seconds = timed(one, device)
            if turn >= cfg.bench.warmup:
                times[name].append(seconds)
    counted = training_flops(lambda: stage.losses(batch, purpose="bench").loss.mean())
    step_s = statistics.median(times["training_step_s"])
    peak = device_peak(device, dtype) or measured_matmul_peak(device, dtype)
    return {
        "stage": cfg.stage.name,
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "grid": str(grid),
        "batch": size,
        "parameters": parameter_count(as_module(stage)),
        **{name: spread(values) for name, values in times.items()},
        "clips_per_s": size / step_s,
        "training_flops": counted,
        "tflop_per_s": counted / step_s / 1e12,
        "peak_tflop_per_s": peak / 1e12,
        "share_of_peak": counted / step_s / peak,
        "memory_bytes": torch.cuda.max_memory_allocated() if device.type == "cuda" else None,
    }


@command("bench")
def main(cfg: DictConfig) -> None:
    """The command line."""
    sys.stdout.write(json.dumps(bench(cfg), indent=2) + "\n")


if __name__ == "__main__":
    check_choices(sys.argv[1:])
    main()
