"""Rows of figures: for the loggers, for files of JSON lines, and of a validation past."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.loggers import WandbLogger

from cascade.checkpoint.loops import VALIDATED
from cascade.files.atomic import write_whole
from cascade.trainer import callbacks, log_every


def due(trainer: pl.Trainer, stepped: int) -> bool:
    """Whether an optimizer step has ended since step `stepped`, and the loggers want it."""
    return trainer.global_step > stepped and trainer.global_step % log_every(trainer) == 0


def write(trainer: pl.Trainer, figures: Mapping[str, float]) -> None:
    """One row of figures, of the step that has just ended, for every logger.

    Past Lightning's own store of results, which costs more than the figures, and which repeats a
    name's last value in every row that has no new one.
    """
    for logger in trainer.loggers:
        logger.log_metrics(dict(figures), step=trainer.global_step - 1)


def write_table(
    trainer: pl.Trainer, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]
) -> None:
    """A table for W&B, where it is on."""
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger) and trainer.is_global_zero:
            logger.log_table(
                name, list(columns), [list(row) for row in rows], step=trainer.global_step - 1
            )


def append_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Rows for a file of JSON lines; what is no number is null there."""
    with path.open("a") as file:
        file.writelines(json.dumps(_finite(dict(row)), allow_nan=False) + "\n" for row in rows)


def keep_rows(path: Path, *, before: int) -> None:
    """Drop the rows of steps that are done again, and one that a kill has cut."""
    if not path.is_file():
        return
    lines = path.read_bytes().splitlines(keepends=True)
    kept = [line for line in lines if _step_of(line) < before]
    if kept != lines:
        write_whole(path, b"".join(kept))


def _step_of(line: bytes) -> float:
    try:
        return float(json.loads(line)["step"]) if line.endswith(b"\n") else math.inf
    except (ValueError, TypeError, KeyError):
        return math.inf


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _finite(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def noted(trainer: pl.Trainer) -> Mapping[str, float] | None:
    """The validation's figures of the step that a leg goes on from, by `Checkpoints`.

    None where that validation is still to come.
    """
    callback: Any
    for callback in callbacks(trainer):
        if getattr(callback, VALIDATED, None) == trainer.global_step > 0:
            figures: Mapping[str, float] = callback.figures
            return figures
    return None
