"""Times of work on a device."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
#: The number format of products: a GPU's matrix units, or a CPU's own.
HALF = torch.bfloat16 if DEVICE == "cuda" else torch.float32


def wait() -> None:
    """Wait until the device has finished."""
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def seconds(work: Callable[[], Any], *, rounds: int = 5, least_s: float = 0.02) -> float:
    """The median seconds of `work`; each round repeats it for about `least_s`, after one call."""
    work()
    wait()
    began = time.perf_counter()
    work()
    wait()
    repeats = max(1, min(50, int(least_s / max(time.perf_counter() - began, 1e-6))))
    times = []
    for _ in range(rounds):
        wait()
        began = time.perf_counter()
        for _ in range(repeats):
            work()
        wait()
        times.append((time.perf_counter() - began) / repeats)
    return statistics.median(times)


def first(work: Callable[[], Any]) -> float:
    """The seconds of one call."""
    wait()
    began = time.perf_counter()
    work()
    wait()
    return time.perf_counter() - began


def random(*shape: int, grad: bool = False) -> torch.Tensor:
    """Random values on the device: zeros would draw less power, and so run faster."""
    return torch.randn(*shape, device=DEVICE, dtype=HALF).requires_grad_(grad)
