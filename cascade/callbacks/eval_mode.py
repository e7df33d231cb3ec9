"""A stage asked without being trained, on a few samples of a batch."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytorch_lightning as pl
import torch


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
