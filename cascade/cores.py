"""The cores of this machine, and how many of them load data."""

import os

#: Cores that are left to the training process.
TRAINING = 2


def cores() -> int:
    """Number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def loader_processes(asked: int | None, ranks: int) -> int:
    """The loader processes of one of `ranks` ranks on this machine.

    None: this machine's cores but two, divided among its ranks, and at least one.
    """
    return max(1, (cores() - TRAINING) // ranks) if asked is None else asked
