"""The ranks of a run: which is first, and collecting values from all of them."""

import os
from collections.abc import Sequence
from typing import TypeVar

import pytorch_lightning as pl
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")


def is_first() -> bool:
    """Whether this is the run's first process, by the variables of torchrun, Slurm or Lightning.

    It is known before the process group starts.
    """
    if "RANK" in os.environ:
        return os.environ["RANK"] == "0"
    return all(
        os.environ.get(name, "0") == "0" for name in ("SLURM_PROCID", "NODE_RANK", "LOCAL_RANK")
    )


def share() -> tuple[int, int]:
    """This rank and the number of ranks."""
    up = dist.is_available() and dist.is_initialized()
    return (dist.get_rank(), dist.get_world_size()) if up else (0, 1)


def gather(value: T) -> list[T]:
    """Every rank's value, in the order of ranks; in a single process, only its own."""
    _, world = share()
    if world == 1:
        return [value]
    values: list[T] = [value] * world
    dist.all_gather_object(values, value)
    return values


def highest(values: Sequence[float]) -> list[float]:
    """The maximum of each value over all ranks."""
    return [max(column) for column in zip(*gather(list(values)), strict=True)]


def summed(trainer: pl.Trainer, values: Tensor) -> Tensor:
    """The sum over all ranks, on the CPU: one reduction and one synchronisation."""
    total = trainer.strategy.reduce(values, reduce_op="sum")
    assert isinstance(total, Tensor)
    return total.cpu()
