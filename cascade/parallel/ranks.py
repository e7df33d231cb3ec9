"""What the processes of a run are to each other: which is first, and what all of them found."""

import os
from collections.abc import Sequence
from typing import TypeVar

import pytorch_lightning as pl
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")


def is_first() -> bool:
    """Whether this is the run's first process, as torchrun, Slurm or Lightning's launcher says.

    Known before any of them has met the others.
    """
    if "RANK" in os.environ:
        return os.environ["RANK"] == "0"
    return all(
        os.environ.get(name, "0") == "0" for name in ("SLURM_PROCID", "NODE_RANK", "LOCAL_RANK")
    )


def share() -> tuple[int, int]:
    """This rank and the number of them."""
    up = dist.is_available() and dist.is_initialized()
    return (dist.get_rank(), dist.get_world_size()) if up else (0, 1)


def gather(value: T) -> list[T]:
    """Every rank's value, by rank; this one alone where no others are."""
    _, world = share()
    if world == 1:
        return [value]
    values: list[T] = [value] * world
    dist.all_gather_object(values, value)
    return values


def highest(values: Sequence[float]) -> list[float]:
    """Each one's highest value on any rank."""
    return [max(column) for column in zip(*gather(list(values)), strict=True)]


def summed(trainer: pl.Trainer, values: Tensor) -> Tensor:
    """The sum over all ranks, on the CPU: one message and one wait."""
    total = trainer.strategy.reduce(values, reduce_op="sum")
    assert isinstance(total, Tensor)
    return total.cpu()
