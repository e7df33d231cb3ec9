"""Loss by log-SNR, bucket and way to prompt: where a stage learns, and where it does not."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from cascade.callbacks import names
from cascade.callbacks.figures import append_rows, due, keep_rows, noted, write, write_table
from cascade.callbacks.verdict import NotLearningError
from cascade.conditioning import ways
from cascade.parallel.ranks import gather, summed
from cascade.trainer import datamodule, log_every

WAYS = tuple(name for name, way in ways.items() if way.draw is not None)


class Diagnostics(pl.Callback):
    """Sums losses where they are made, and reads them at the logging interval alone.

    Args:
        logsnr_edges: between the bins of the log-SNR (nats).
        max_buckets: where a plan has more shapes, those of equally many frames are one.
        patience: after so many steps, in all of whose intervals the loss was higher than that of
            a network that answers zero, for a quarter of the clips at least, the run ends.
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
        """The buckets are those of the plan, the same on all ranks; the sums go on."""
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
        # This step's mean loss; the interval's losses, those of a network that answers zero, how
        # many are higher than that, and how many there are.
        self._sums = torch.zeros(5, device=pl_module.device)
        if self._loaded is not None:
            self._go_on(trainer, self._loaded)
            self._loaded = None
        if trainer.is_global_zero:
            told = not self._since[1].any()  # else the table of this very step is still to come
            keep_rows(_table(trainer), before=trainer.global_step + told)

    def _go_on(self, trainer: pl.Trainer, loaded: dict[str, Any]) -> None:
        """Each rank with its own sums; where there are more or fewer ranks, the first with all."""
        ours = len(loaded["now"]) == trainer.world_size
        for held, parts in ((self._now, loaded["now"]), (self._sums, loaded["sums"])):
            if ours:
                held.copy_(parts[trainer.global_rank])
            elif trainer.is_global_zero:
                held.copy_(sum(parts))
        if noted(trainer) is None:  # else its table was written after it was saved
            self._since.copy_(loaded["since"])

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, *_: Any
    ) -> None:
        """Add up; read, share and write when the loggers do."""
        self._add(outputs["losses"], outputs["mean"] / trainer.accumulate_grad_batches)
        if due(trainer, self._stepped):
            self._write(trainer, pl_module)
        if trainer.global_step > self._stepped:
            self._stepped = trainer.global_step
            self._sums[0].zero_()

    def _add(self, losses: Any, mean: Tensor) -> None:
        other, device = len(self._names) - 1, self._now.device
        cells = [
            self._places.get(shape, other) * len(WAYS) + WAYS.index(way)
            for shape, way in zip(losses.shapes, losses.ways, strict=True)
        ]
        bins = torch.bucketize(losses.logsnr.float(), self.edges)
        where = bins * len(self._names) * len(WAYS) + torch.tensor(cells, device=device)
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
        worse = relative > 1 and higher > count / 4  # one spike alone is the guard's matter
        self._worse = self._worse + steps if worse else 0
        if self._worse >= self.patience:
            raise NotLearningError(
                f"stage {stage.name}: step {trainer.global_step}: for {self._worse} steps the loss "
                f"was higher than that of a network that answers zero (now {relative:.3g} times): "
                f"it diverges; lower the learning rate, now {rate:g}"
            )

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The whole table goes to a file of its own, and to W&B."""
        if self._loaded is not None:  # nothing was left to train; the last table may be to come
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
        """All sums, by rank where each has its own, and for how long it is worse than nothing."""
        parts = gather((self._now.cpu(), self._sums.cpu()))
        return {
            "worse": self._worse,
            "now": [now for now, _ in parts],
            "sums": [sums for _, sums in parts],
            "since": self._since.clone(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Kept until the device and the buckets are known."""
        self._worse, self._loaded = state_dict["worse"], state_dict


def _table(trainer: pl.Trainer) -> Path:
    return Path(trainer.default_root_dir) / "losses.jsonl"


def _means(labels: Any, sums_and_counts: Tensor) -> dict[str, float]:
    """Mean by label, of those that there are."""
    sums, counts = sums_and_counts.tolist()
    return {n: s / c for n, s, c in zip(labels, sums, counts, strict=True) if c}
