"""How the processes of a run choose one checkpoint to go on from."""

import os
from pathlib import Path

import pytorch_lightning as pl

#: Where a process that starts the others leaves the step that it has chosen for all.
CHOSEN = "CASCADE_CHECKPOINT"


def meet(trainer: pl.Trainer) -> None:
    """Bring the process group up now, where something else has already started all ranks.

    A process that will start the others itself (a launcher) cannot: they are not there yet.
    """
    if trainer.world_size > 1 and trainer.strategy.launcher is None and told(trainer) is None:
        trainer.strategy.setup_environment()


def tell(trainer: pl.Trainer, folder: Path | None) -> None:
    """Leave the choice for the processes that this one starts."""
    if trainer.strategy.launcher is not None:
        os.environ[CHOSEN] = "" if folder is None else str(folder)


def told(trainer: pl.Trainer) -> str | None:
    """The folder chosen by the process that started this one, "" for none; None: choose."""
    started = trainer.strategy.launcher is None and "LOCAL_RANK" in os.environ
    return os.environ.get(CHOSEN) if trainer.world_size > 1 and started else None
