"""What callbacks share: rows for the loggers, what all ranks found, a stage lent for a look."""

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import WandbLogger
from torch import Tensor

from cascade.checkpoint.loops import VALIDATED
from cascade.checkpoint.ranks import gather
from cascade.trainer import callbacks, log_every
from cascade.whole import write_whole


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
    except ValueError:
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


def summed(trainer: pl.Trainer, values: Tensor) -> Tensor:
    """The sum over all ranks, on the CPU: one message and one wait."""
    total = trainer.strategy.reduce(values, reduce_op="sum")
    assert isinstance(total, Tensor)
    return total.cpu()


def highest(values: Sequence[float]) -> list[float]:
    """Each one's highest value on any rank."""
    return [max(column) for column in zip(*gather(list(values)), strict=True)]


def first(batch: Mapping[str, Any], count: int) -> dict[str, Any]:
    """The first samples of a batch, or the first one of a packed batch, as a batch of one shape."""
    if "videos" in batch:
        beside = {k: v for k, v in batch.items() if k not in ("videos", "weight")}
        return {"video": batch["videos"][0].unsqueeze(0), **first(beside, 1)}
    return {name: value[:count] for name, value in batch.items() if name != "weight"}


@contextmanager
def looking(trainer: pl.Trainer, stage: pl.LightningModule) -> Iterator[None]:
    """Inside, the stage can be asked without being trained, in the precision that it trains in."""
    modes = {module: module.training for module in stage.modules()}
    stage.eval()
    try:
        with torch.no_grad(), trainer.precision_plugin.forward_context():
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode
