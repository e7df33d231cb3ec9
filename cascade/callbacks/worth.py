"""What each condition is worth to a stage: its loss without it, over its loss with it."""

import logging
from collections.abc import Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from cascade.callbacks import names
from cascade.callbacks.figures import noted
from cascade.callbacks.verdict import NotLearningError
from cascade.parallel.ranks import summed
from cascade.stage import Noised, trainable

log = logging.getLogger(__name__)


class Worth(pl.Callback):
    """At every validation, held-out clips once more with each condition taken from another clip.

    Clips, noise and log-SNR stay the same, so that a small difference shows. A condition is worth
    nothing where the mean logarithm of the losses' ratio, give or take `errors` standard errors,
    may be 0 and is surely below `least`. Every rank makes equally many forward passes.

    Args:
        conditions: to look at; those that a stage does not have are left out.
        clips: of the validation, on all ranks together.
        patience: validations in a row with the same verdict before it is said.
        errors: standard errors that a worth is given or taken.
        least: a worth that would be something; where the clips do not tell, nothing is said.
        required: what ends the run when it is worth nothing; the others are warned of.
    """

    #: Clips for which a condition differs, below which nothing is said.
    LEAST = 8

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
            raise ValueError(f"worth: required {unknown} are not among {list(conditions)}")
        self.conditions, self.clips, self.patience = tuple(conditions), clips, patience
        self.errors, self.least, self.required = errors, least, tuple(required)
        self._nothing: dict[str, int] = {}

    def on_train_start(self, trainer: pl.Trainer, *_: Any) -> None:
        """A step is saved before its validation: what that has found is in the figures noted."""
        found = noted(trainer)
        if found is not None:
            counts = {
                name: int(found.get(names.worth_nothing(name), 0)) for name in self.conditions
            }
            self._nothing = {name: count for name, count in counts.items() if count}

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Nothing is summed yet."""
        has = trainable(pl_module).conditions
        self._names = [name for name in self.conditions if name in has]
        self._sums = torch.zeros(len(self._names), 5, device=pl_module.device)
        self._losses = torch.zeros(2, device=pl_module.device)
        self._left = -(-self.clips // trainer.world_size)
        self._before: Noised | None = None

    def on_validation_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, *_: Any
    ) -> None:
        """The batch again, once for each condition."""
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
        """Log what each is worth, and say which are worth nothing."""
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
            if count >= self.LEAST:
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
            taken = "left out" if name == "given" else "another clip's"
            said = (
                f"stage {stage.name}: step {trainer.global_step}: `{name}` is worth nothing in "
                f"{times} validations in a row: where it is {taken}, the loss changes by "
                f"{100 * mean:+.2f} ± {100 * error:.2f} %; look whether it fits the clips, and "
                "whether it reaches the network"
            )
            if name in self.required:
                raise NotLearningError(said)
            if trainer.is_global_zero:
                log.warning("%s", said)

    def state_dict(self) -> dict[str, Any]:
        """In how many validations in a row each was worth nothing, before this step's."""
        return {"nothing": dict(self._nothing)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self._nothing = dict(state_dict["nothing"])


def _compared(own: Tensor, other: Tensor, differs: Tensor) -> Tensor:
    """How many clips differ; the sums of both losses, and of their log ratio and its square."""
    counted = differs & (own > 0) & (other > 0)
    ratio = torch.where(counted, other / own, 1.0).log()
    columns = [torch.ones_like(own), own, other, ratio, ratio.square()]
    return torch.stack([column.where(counted, 0.0).sum() for column in columns])
