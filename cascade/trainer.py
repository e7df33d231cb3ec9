"""What Lightning's connectors set on a trainer undeclared: with types, in one place."""

from typing import Any

import pytorch_lightning as pl


def callbacks(trainer: pl.Trainer) -> list[pl.Callback]:
    """The run's callbacks, in the order in which they are called."""
    undeclared: Any = trainer
    found: list[pl.Callback] = undeclared.callbacks
    return found


def datamodule(trainer: pl.Trainer) -> Any:
    """What the run reads; from `fit` on, and None where that was given loaders."""
    undeclared: Any = trainer
    return undeclared.datamodule


def log_every(trainer: pl.Trainer) -> int:
    """Steps between two rows for the loggers."""
    undeclared: Any = trainer
    steps: int = undeclared.log_every_n_steps
    return steps
