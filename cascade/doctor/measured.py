"""Time a few real training steps on real batches: loading and the step separately."""

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import hydra
import torch

from cascade.doctor.dry import Execution
from cascade.ema import PowerEMA


@dataclass(frozen=True, kw_only=True)
class Times:
    """Seconds of each measured step: of loading a batch in one process, and of the step."""

    load: list[float]
    step: list[float]

    @property
    def load_s(self) -> float:
        """The median time to load one micro batch in one process."""
        return statistics.median(self.load)

    @property
    def step_s(self) -> float:
        """The median time of one micro batch's step."""
        return statistics.median(self.step)


def read(batches: Iterator[dict[str, Any]], count: int) -> tuple[list[dict[str, Any]], list[float]]:
    """At most `count` batches, and the seconds that each took."""
    found: list[dict[str, Any]] = []
    seconds = []
    for _ in range(count):
        began = time.perf_counter()
        batch = next(batches, None)
        if batch is None:
            break
        seconds.append(time.perf_counter() - began)
        found.append(batch)
    return found, seconds


def measure(
    config: dict[str, Any],
    batches: list[dict[str, Any]],
    *,
    execution: Execution,
    rounds: int,
    warmup: int,
) -> list[float]:
    """Seconds of `rounds` real steps after `warmup` others; the batches repeat."""
    from pytorch_lightning.utilities import move_data_to_device  # takes seconds

    device = torch.device("cuda" if execution.cuda else "cpu")
    stage = hydra.utils.instantiate(config, _convert_="all")
    stage.text.prepare()
    stage.configure_model()
    stage.to(device, torch.bfloat16 if execution.precision == "bf16-true" else None)
    optimizer = stage.recipe.optimizer(stage)
    ema = PowerEMA(stage, sigma_rels=execution.sigma_rels)
    half = execution.half

    def step(number: int) -> None:
        batch = move_data_to_device(batches[number % len(batches)], device)
        with torch.autocast(device.type, dtype=half, enabled=half is not None):
            loss = stage.losses(batch, purpose="train").loss.mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(stage.parameters(), 1.0)
        optimizer.step()
        ema.update(stage, number + 1)

    return [timed(step, number, device) for number in range(warmup + rounds)][warmup:]


def timed(work: Callable[[int], None], number: int, device: torch.device) -> float:
    """Seconds that `work(number)` takes, with the device synchronised before and after."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    began = time.perf_counter()
    work(number)
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began
