"""The training loss by log-SNR, bucket and way to prompt."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from cascade.callbacks import names
from cascade.callbacks.figures import (
    append_rows,
    due,
    keep_rows,
    resumed_metrics,
    write,
    write_table,
)
from cascade.callbacks.verdict import NotLearningError
from cascade.conditioning import ways
from cascade.parallel.ranks import gather, summed
from cascade.trainer import datamodule, log_every
from cascade.transfer import sent

WAYS = tuple(name for name, way in ways.items() if way.draw is not None)


class Diagnostics(pl.Callback):
    """Sums losses on the device, and reads the sums once per logging interval.

    Args:
        logsnr_edges: between the bins of the log-SNR (nats).
        max_buckets: a plan with more shapes has one bucket per number of frames.
        patience: the run ends after this many steps in whose every interval the loss was higher
            than that of a network that outputs zero, for at least a quarter of the clips.
    """

    def __init__(
        self, *, logsnr_edges: Sequence[float], max_buckets: int = 16, patience: int = 50
    ) -> None:
        self.edges = torch.tensor(sorted(logsnr_edges))
        self.bins = names.logsnr_bins(self.edges.tolist())
        self.max_buckets, self.patience = max_buckets, patience
        self._buckets: dict[tuple[int, ...], str] = {}
        self._names: list[str] = []
        self._stepped = 0
        self._worse = 0
        self._now = self._sums = self._since = torch.zeros(2, 0)
        self._loaded: dict[str, Any] | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take the buckets from the plan, so that all ranks have the same; restore the sums."""
        plan = getattr(datamodule(trainer), "plan", None)
        shapes = [(s.frames, s.height, s.width) for s in getattr(plan, "shapes", ())]
        many = len(shapes) > self.max_buckets
        self._buckets = {s: f"{s[0]}f" if many else "x".join(map(str, s)) for s in shapes}
        self._names = [*dict.fromkeys(self._buckets.values()), "other"]
        self._places = {shape: self._names.index(name) for shape, name in self._buckets.items()}
        self._stepped = trainer.global_step
        self.edges = self.edges.to(pl_module.device)
        size = (2, len(self.bins), len(self._names), len(WAYS))
        # Losses and counts by bin × bucket × way: of this interval, and since the last validation.
        self._now = torch.zeros(size, device=pl_module.device)
        self._since = torch.zeros(size)
        # The step's mean loss; and of the interval the sum of losses, the sum of losses of a
        # network that outputs zero, the number of clips above that, and the number of clips.
        self._sums = torch.zeros(5, device=pl_module.device)
        if self._loaded is not None:
            self._restore(trainer, self._loaded)
            self._loaded = None
        if trainer.is_global_zero:
            written = not self._since[1].any()  # else the table of this step is not written yet
            keep_rows(_table(trainer), before=trainer.global_step + written)

    def _restore(self, trainer: pl.Trainer, loaded: dict[str, Any]) -> None:
        """Give each rank its own sums; after a change of their number, rank 0 all of them."""
        same_ranks = len(loaded["now"]) == trainer.world_size
        for sums, parts in ((self._now, loaded["now"]), (self._sums, loaded["sums"])):
            if same_ranks:
                sums.copy_(parts[trainer.global_rank])
            elif trainer.is_global_zero:
                sums.copy_(sum(parts))
        if resumed_metrics(trainer) is None:  # else the table was written after the save
            self._since.copy_(loaded["since"])

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, *_: Any
    ) -> None:
        """Add the batch's losses; log them at the logging interval."""
        self._add(outputs["losses"], outputs["mean"] / trainer.accumulate_grad_batches)
        if due(trainer, self._stepped):
            self._write(trainer, pl_module)
        if trainer.global_step > self._stepped:
            self._stepped = trainer.global_step
            self._sums[0].zero_()

    def _add(self, losses: Any, mean: Tensor) -> None:
        other = len(self._names) - 1
        cells = [
            self._places.get(shape, other) * len(WAYS) + WAYS.index(way)
            for shape, way in zip(losses.shapes, losses.ways, strict=True)
        ]
        bins = torch.bucketize(losses.logsnr.float(), self.edges)
        where = bins * len(self._names) * len(WAYS) + sent(torch.tensor(cells), bins.device)
        loss = losses.loss.float()
        flat = self._now.view(2, -1)
        zero, ones = losses.zero.float(), torch.ones_like(loss)
        flat.index_add_(1, where, torch.stack([loss, ones]))
        each = torch.stack([loss, zero, (loss > zero).float(), ones]).sum(1)
        self._sums += torch.cat([mean.float().view(1), each])

    def _write(self, trainer: pl.Trainer, stage: pl.LightningModule) -> None:
        total = summed(trainer, torch.cat([self._sums, self._now.flatten()]))
        self._now.zero_()
        self._sums.zero_()
        mean, loss, zero, higher, count = total[:5].tolist()
        table = total[5:].view(self._since.shape)
        self._since += table
        rate = trainer.optimizers[0].param_groups[0]["lr"]
        relative = loss / zero if zero else float("nan")
        figures = {
            names.LOSS: mean / trainer.world_size,
            names.RELATIVE: relative,
            names.LR: float(rate),
            **_means(map(names.by_logsnr, self.bins), table.sum((2, 3))),
            **_means(map(names.by_bucket, self._names), table.sum((1, 3))),
            **_means(map(names.by_mode, WAYS), table.sum((1, 2))),
        }
        write(trainer, figures)
        stage.log(names.LOSS, figures[names.LOSS], prog_bar=True, logger=False)
        steps = log_every(trainer)
        worse = relative > 1 and higher > count / 4  # a single spike is left to the guard
        self._worse = self._worse + steps if worse else 0
        if self._worse >= self.patience:
            raise NotLearningError(
                f"stage {stage.name}: step {trainer.global_step}: for {self._worse} steps the loss "
                f"was higher than that of a network that outputs zero (ratio now {relative:.3g}, "
                f"limit 1): training diverges; lower the learning rate, now {rate:g}"
            )

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the table to its own file, and to W&B."""
        if self._loaded is not None:  # nothing was left to train; the last table may be missing
            self.on_train_start(trainer, pl_module)
        if not self._since[1].any():
            return
        rows = [
            {
                "step": trainer.global_step,
                "logsnr": self.bins[b],
                "bucket": self._names[s],
                "mode": WAYS[w],
                "loss": float(self._since[0, b, s, w] / self._since[1, b, s, w]),
                "clips": int(self._since[1, b, s, w]),
            }
            for b, s, w in self._since[1].nonzero().tolist()
        ]
        self._since.zero_()
        if trainer.is_global_zero:
            append_rows(_table(trainer), rows)
        write_table(trainer, "losses", list(rows[0]), [list(row.values()) for row in rows])

    def state_dict(self) -> dict[str, Any]:
        """All sums, by rank where ranks differ, and for how many steps the loss was too high."""
        parts = gather((self._now.cpu(), self._sums.cpu()))
        return {
            "worse": self._worse,
            "now": [now for now, _ in parts],
            "sums": [sums for _, sums in parts],
            "since": self._since.clone(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the state until the device and the buckets are known."""
        self._worse, self._loaded = state_dict["worse"], state_dict


def _table(trainer: pl.Trainer) -> Path:
    return Path(trainer.default_root_dir) / "losses.jsonl"


def _means(labels: Any, sums_and_counts: Tensor) -> dict[str, float]:
    """Means by label, of labels with a count."""
    sums, counts = sums_and_counts.tolist()
    return {n: s / c for n, s, c in zip(labels, sums, counts, strict=True) if c}
