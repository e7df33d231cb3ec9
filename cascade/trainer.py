"""Typed access to attributes that Lightning sets on a trainer without declaring them."""

from typing import Any

import pytorch_lightning as pl


def callbacks(trainer: pl.Trainer) -> list[pl.Callback]:
    """The run's callbacks, in call order."""
    undeclared: Any = trainer
    found: list[pl.Callback] = undeclared.callbacks
    return found


def datamodule(trainer: pl.Trainer) -> Any:
    """The run's data module, from `fit` on; None if `fit` was called with loaders."""
    undeclared: Any = trainer
    return undeclared.datamodule


def log_every(trainer: pl.Trainer) -> int:
    """Steps between two rows of the loggers."""
    undeclared: Any = trainer
    steps: int = undeclared.log_every_n_steps
    return steps
