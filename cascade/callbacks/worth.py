"""The worth of each condition: the relative increase of a stage's loss without it."""

import logging
from collections.abc import Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from cascade.callbacks import names
from cascade.callbacks.figures import resumed_metrics
from cascade.callbacks.verdict import NotLearningError
from cascade.parallel.ranks import summed
from cascade.stage import Noised, trainable

log = logging.getLogger(__name__)


class Worth(pl.Callback):
    """Measures the worth of each condition at every validation.

    Held-out clips are evaluated once more per condition, with the condition taken from another clip
    (`given`: removed); clips, noise and log-SNR stay the same, so that a small effect shows. With m
    the mean of log(loss without / loss with) over clips and s its standard error, a condition has
    no effect if m <= `errors`·s and m + `errors`·s <= `least`. Every rank makes the same number of
    forward passes.

    Args:
        conditions: the conditions to test; those that a stage does not have are skipped.
        clips: how many clips of a validation are used, over all ranks.
        patience: validations in a row without an effect before it is reported.
        errors: half-width of the confidence interval, in standard errors.
        least: the smallest effect that counts, as a log ratio of losses.
        required: conditions without which the run ends; for the others a warning is logged.
    """

    #: The fewest clips with another value of a condition that allow a conclusion.
    MIN_CLIPS = 8

    def __init__(
        self,
        *,
        conditions: Sequence[str],
        clips: int = 64,
        patience: int = 3,
        errors: float = 2.0,
        least: float = 0.05,
        required: Sequence[str] = (),
    ) -> None:
        if unknown := [name for name in required if name not in conditions]:
            raise ValueError(
                f"worth: required must be among conditions {list(conditions)}, got {unknown}"
            )
        self.conditions, self.clips, self.patience = tuple(conditions), clips, patience
        self.errors, self.least, self.required = errors, least, tuple(required)
        self._nothing: dict[str, int] = {}

    def on_train_start(self, trainer: pl.Trainer, *_: Any) -> None:
        """Restore the counts: a step is saved before its validation, whose metrics have them."""
        metrics = resumed_metrics(trainer)
        if metrics is not None:
            counts = {
                name: int(metrics.get(names.worth_nothing(name), 0)) for name in self.conditions
            }
            self._nothing = {name: count for name, count in counts.items() if count}

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Reset the sums."""
        has = trainable(pl_module).conditions
        self._names = [name for name in self.conditions if name in has]
        self._sums = torch.zeros(len(self._names), 5, device=pl_module.device)
        self._losses = torch.zeros(2, device=pl_module.device)
        self._left = -(-self.clips // trainer.world_size)
        self._before: Noised | None = None

    def on_validation_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, *_: Any
    ) -> None:
        """Evaluate the batch once more for each condition."""
        losses, noised = outputs["losses"], outputs["noised"]
        self._losses += torch.stack([losses.sum(), outputs["zero"].sum()]).float()
        other = noised.rolled() if len(losses) > 1 else self._before
        if self._left > 0 and other is not None and other.z.shape == noised.z.shape:
            self._left -= len(losses)
            for sums, name in zip(self._sums, self._names, strict=True):
                with trainer.precision_plugin.forward_context():
                    without, differs = trainable(pl_module).loss_without(noised, other, name)
                sums += _compared(losses.float(), without.float(), differs)
        self._before = noised if len(losses) == 1 else None

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the worth of each condition, and report those without an effect."""
        self._before = None
        total = summed(trainer, torch.cat([self._losses, self._sums.flatten()]))
        loss, zero = total[:2].tolist()
        figures = {"val/relative_loss": loss / zero} if zero else {}
        judged = {}
        rows = total[2:].view(-1, 5).tolist()
        for name, (count, own, other, logs, squares) in zip(self._names, rows, strict=True):
            if count < 2 or not own:
                continue
            figures[names.worth(name)] = other / own - 1
            mean = logs / count
            error = max(squares / count - mean**2, 0.0) ** 0.5 / (count - 1) ** 0.5
            if count >= self.MIN_CLIPS:
                judged[name] = (mean, error)
        self._judge(trainer, pl_module, judged)
        figures |= {names.worth_nothing(n): self._nothing.get(n, 0) for n in self._names}
        for name, value in figures.items():
            pl_module.log(name, float(value), sync_dist=trainer.world_size > 1)

    def _judge(
        self,
        trainer: pl.Trainer,
        stage: pl.LightningModule,
        judged: dict[str, tuple[float, float]],
    ) -> None:
        for name, (mean, error) in judged.items():
            if mean > self.errors * error or mean + self.errors * error > self.least:
                self._nothing.pop(name, None)
                continue
            self._nothing[name] = times = self._nothing.get(name, 0) + 1
            if times < self.patience:
                continue
            change = "removing it" if name == "given" else "using another clip's"
            message = (
                f"stage {stage.name}: step {trainer.global_step}: `{name}` has no effect on the "
                f"loss in {times} validations in a row: {change} changes the loss by "
                f"{100 * mean:+.2f} ± {100 * error:.2f} %; check that it matches the clips and "
                "reaches the network"
            )
            if name in self.required:
                raise NotLearningError(message)
            if trainer.is_global_zero:
                log.warning("%s", message)

    def state_dict(self) -> dict[str, Any]:
        """For how many validations in a row each condition had no effect, before this step's."""
        return {"nothing": dict(self._nothing)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the counts from a checkpoint."""
        self._nothing = dict(state_dict["nothing"])


def _compared(own: Tensor, other: Tensor, differs: Tensor) -> Tensor:
    """Sums over clips that differ: their number, both losses, their log ratio and its square."""
    counted = differs & (own > 0) & (other > 0)
    ratio = torch.where(counted, other / own, 1.0).log()
    columns = [torch.ones_like(own), own, other, ratio, ratio.square()]
    return torch.stack([column.where(counted, 0.0).sum() for column in columns])
