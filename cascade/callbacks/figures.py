"""Rows of metrics: for the loggers and for JSON lines files; and a past validation's metrics."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.loggers import WandbLogger

from cascade.checkpoint.loops import VALIDATED
from cascade.files.atomic import write_atomic
from cascade.files.finite import finite
from cascade.trainer import callbacks, log_every


def due(trainer: pl.Trainer, stepped: int) -> bool:
    """Whether an optimizer step has ended since step `stepped`, and is one to log."""
    return trainer.global_step > stepped and trainer.global_step % log_every(trainer) == 0


def write(trainer: pl.Trainer, figures: Mapping[str, float]) -> None:
    """Log one row of metrics of the step that has just ended.

    It bypasses Lightning's store of results, which takes more time than the metrics themselves and
    repeats a metric's last value in every row without a new one.
    """
    for logger in trainer.loggers:
        logger.log_metrics(dict(figures), step=trainer.global_step - 1)


def write_table(
    trainer: pl.Trainer, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]
) -> None:
    """Log a table to W&B, if that is on."""
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger) and trainer.is_global_zero:
            logger.log_table(
                name, list(columns), [list(row) for row in rows], step=trainer.global_step - 1
            )


def append_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Append rows to a JSON lines file; non-finite values become null."""
    with path.open("a") as file:
        file.writelines(json.dumps(finite(dict(row)), allow_nan=False) + "\n" for row in rows)


def keep_rows(path: Path, *, before: int) -> None:
    """Remove rows of steps that will be repeated, and a last row that a kill cut short."""
    if not path.is_file():
        return
    lines = path.read_bytes().splitlines(keepends=True)
    kept = [line for line in lines if _step_of(line) < before]
    if kept != lines:
        write_atomic(path, b"".join(kept))


def _step_of(line: bytes) -> float:
    try:
        return float(json.loads(line)["step"]) if line.endswith(b"\n") else math.inf
    except (ValueError, TypeError, KeyError):
        return math.inf


def resumed_metrics(trainer: pl.Trainer) -> Mapping[str, float] | None:
    """The validation metrics of the step that the run resumed from, as its checkpoint has them.

    None if that step has not been validated yet.
    """
    callback: Any
    for callback in callbacks(trainer):
        if getattr(callback, VALIDATED, None) == trainer.global_step > 0:
            figures: Mapping[str, float] = callback.figures
            return figures
    return None
