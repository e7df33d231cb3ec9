"""How the processes of a run agree on one checkpoint to resume from."""

import os
from pathlib import Path

import pytorch_lightning as pl

#: The environment variable by which a launching process passes its choice to those it starts.
CHOSEN = "CASCADE_CHECKPOINT"


def start_process_group(trainer: pl.Trainer) -> None:
    """Start the process group, if all ranks have already been started by torchrun or Slurm.

    If Lightning launches the other ranks from this process, they do not exist yet.
    """
    external = trainer.world_size > 1 and trainer.strategy.launcher is None
    if external and inherited_choice(trainer) is None:
        trainer.strategy.setup_environment()


def publish_choice(trainer: pl.Trainer, folder: Path | None) -> None:
    """Pass the chosen folder to the processes that this one will start."""
    if trainer.strategy.launcher is not None:
        os.environ[CHOSEN] = "" if folder is None else str(folder)


def inherited_choice(trainer: pl.Trainer) -> str | None:
    """The folder chosen by the process that started this one, "" for no checkpoint.

    None if there was no such choice, so that this process must choose.
    """
    started = trainer.strategy.launcher is None and "LOCAL_RANK" in os.environ
    return os.environ.get(CHOSEN) if trainer.world_size > 1 and started else None
