"""Evaluating a stage in the middle of training, and on a few samples of a batch."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytorch_lightning as pl
import torch


def first(batch: Mapping[str, Any], count: int) -> dict[str, Any]:
    """The first `count` samples of a batch; of a packed batch, the first one, as a plain batch."""
    if "videos" in batch:
        rest = {k: v for k, v in batch.items() if k not in ("videos", "weight")}
        return {"video": batch["videos"][0].unsqueeze(0), **first(rest, 1)}
    return {name: value[:count] for name, value in batch.items() if name != "weight"}


@contextmanager
def eval_mode(trainer: pl.Trainer, stage: pl.LightningModule) -> Iterator[None]:
    """Inside, the stage is in evaluation mode, without gradients, in its training precision."""
    modes = {module: module.training for module in stage.modules()}
    stage.eval()
    try:
        with torch.no_grad(), trainer.precision_plugin.forward_context():
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode
