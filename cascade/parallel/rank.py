"""Which process of a run this is, before any of them has met the others."""

import os


def is_first() -> bool:
    """Whether this is the run's first process, as torchrun, Slurm or Lightning's launcher says."""
    if "RANK" in os.environ:
        return os.environ["RANK"] == "0"
    return all(
        os.environ.get(name, "0") == "0" for name in ("SLURM_PROCID", "NODE_RANK", "LOCAL_RANK")
    )
