"""Loss by log-SNR: where in the noise a stage learns, and where it does not."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor


class Diagnostics(pl.Callback):
    """Logs the mean loss of each log-SNR bin, and the learning rate, at the logging interval."""

    def __init__(self, *, logsnr_edges: Sequence[float]) -> None:
        edges = [float("-inf"), *sorted(logsnr_edges), float("inf")]
        self.names = [f"train/loss_logsnr/{low:g}_{high:g}" for low, high in pairwise(edges)]
        self.edges = torch.tensor(edges[1:-1])
        self._kept: list[tuple[Tensor, Tensor]] = []

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        *_: Any,
    ) -> None:
        """Keep each sample's loss; sum them up when the loggers write."""
        if not isinstance(outputs, dict) or "losses" not in outputs:
            return
        self._kept.append((outputs["losses"], outputs["logsnr"]))
        if trainer.global_step % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]  # set by Trainer
            kept = zip(*self._kept, strict=True)
            losses, logsnr = (torch.cat(part).float().cpu() for part in kept)
            self._kept = []
            if not losses.isfinite().all():
                raise ValueError(
                    f"stage {pl_module.name}: the loss is not finite at step "
                    f"{trainer.global_step}; lower the learning rate, or look at the last clips"
                )
            bins = torch.bucketize(logsnr, self.edges)
            for number in sorted(set(bins.tolist())):
                pl_module.log(self.names[number], losses[bins == number].mean())
            pl_module.log("train/lr", trainer.optimizers[0].param_groups[0]["lr"])
