"""Skips steps with an abnormal loss or gradient, logs their samples, and ends a run of them."""

import functools
import logging
import math
from collections import deque
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from cascade.callbacks import names
from cascade.callbacks.figures import append_rows, due, keep_rows, write, write_table
from cascade.callbacks.verdict import NotLearningError
from cascade.parallel.ranks import gather, summed
from cascade.parallel.shards import gathered

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Spike:
    """A skipped step; `samples` are the key and loss of each of its samples, the worst first."""

    step: int
    why: str
    loss: float
    loss_median: float | None
    grad_norm: float
    grad_norm_median: float | None
    samples: list[tuple[str, float]] = field(default_factory=list)


class Guard(pl.Callback):
    """Skips a step whose loss or gradient norm is not finite or exceeds a limit.

    The limit of log(value) is the running median over accepted steps plus the larger of log(factor)
    and `spreads` times the median absolute deviation, so that a noisy loss has a higher limit. All
    ranks decide by the same sums, and the statistics are part of the checkpoint. A skipped step
    changes neither weights nor optimizer state; the position in the data advances.

    Args:
        factor: of the loss.
        norm_factor: of the gradient norm, which is clipped anyway and has a long tail.
        spreads: in median absolute deviations of the logarithms.
        window: accepted steps in the statistics.
        after: accepted steps before gradient norms are checked: they grow while zero-initialised
            layers start to learn.
        after_loss: accepted steps before losses are checked; a loss only falls at first.
        in_a_row: consecutive skipped steps that end the run.
        in_window: skipped steps among the last `window` that end the run.
    """

    def __init__(
        self,
        *,
        factor: float = 10.0,
        norm_factor: float = 100.0,
        spreads: float = 10.0,
        window: int = 200,
        after: int = 50,
        after_loss: int = 10,
        in_a_row: int = 5,
        in_window: int = 20,
    ) -> None:
        sense = 1 < after_loss <= after <= window and min(in_a_row, in_window) >= 1
        if min(factor, norm_factor) <= 1 or not sense:
            raise ValueError(
                f"guard: factors must be above 1, 1 < after_loss <= after <= window, in_a_row and "
                f"in_window at least 1; got {factor}, {norm_factor}, {after_loss}, {after}, "
                f"{window}, {in_a_row}, {in_window}"
            )
        self.factor, self.norm_factor = factor, norm_factor
        self.spreads, self.window = spreads, window
        self.after, self.after_loss = after, after_loss
        self.in_a_row, self.in_window = in_a_row, in_window
        self._losses: deque[float] = deque(maxlen=window)
        self._norms: deque[float] = deque(maxlen=window)
        self._skipped: list[int] = []  # the numbers of the last skipped steps
        self._total = 0
        self._loss: Tensor | None = None
        self._parts: list[tuple[list[str], Tensor]] = []
        self._spike: Spike | None = None
        self._norm = 0.0
        self._stepped = 0

    def on_train_start(self, trainer: pl.Trainer, *_: Any) -> None:
        """Forget a step that was interrupted: it starts again."""
        self._stepped, self._loss, self._parts = trainer.global_step, None, []
        if trainer.is_global_zero:
            keep_rows(_spikes(trainer), before=trainer.global_step)

    def on_before_backward(
        self, _trainer: pl.Trainer, _module: pl.LightningModule, loss: Tensor
    ) -> None:
        """Add the micro batch's loss to the step's."""
        self._loss = loss.detach() if self._loss is None else self._loss + loss.detach()

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any
    ) -> None:
        """Check the step; if it is bad, drop its gradients, so that the optimizer changes nothing.

        This is the only place in a step where the CPU waits for the device.
        """
        assert self._loss is not None
        gradients = [p.grad for p in pl_module.parameters() if p.grad is not None]
        norm = total_norm(gradients).to(self._loss.device)
        pl_module.gradient_norm = norm
        both = torch.stack([self._loss.float(), norm])
        loss, self._norm = (summed(trainer, both) / trainer.world_size).tolist()
        self._loss = None
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        if scaler is not None and math.isfinite(loss) and not math.isfinite(self._norm):
            return  # an overflow of half precision: the gradient scaler skips the step itself
        why = self._judge(loss)
        if why is None:
            self._losses.append(loss)
            self._norms.append(self._norm)
            return
        self._spike = Spike(
            step=trainer.global_step,
            why=why,
            loss=loss,
            loss_median=median(self._losses) if self._losses else None,
            grad_norm=self._norm,
            grad_norm_median=median(self._norms) if self._norms else None,
        )
        for parameter in pl_module.parameters():
            parameter.grad = None

    def _judge(self, loss: float) -> str | None:
        """Why the step is bad; None if it is not."""
        for name, value, before, after, factor in (
            ("loss", loss, self._losses, self.after_loss, self.factor),
            ("gradient norm", self._norm, self._norms, self.after, self.norm_factor),
        ):
            if not math.isfinite(value):
                return f"{name} is {value}"
            limit = self._limit(before, factor) if len(before) >= after else math.inf
            if value > limit:
                return f"{name} {value:.4g} exceeds the limit {limit:.4g}"
        return None

    def _limit(self, before: deque[float], factor: float) -> float:
        logs = [math.log(max(value, 1e-30)) for value in before]
        middle = median(logs)
        spread = median(abs(value - middle) for value in logs)
        return math.exp(middle + max(math.log(factor), self.spreads * spread))

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        """Record a skipped step with its samples; end the run after too many.

        Raises:
            NotLearningError: too many steps were skipped, or the first step is not finite.
        """
        self._parts.append((list(batch["key"]), outputs["losses"].loss))
        if trainer.global_step == self._stepped:
            return  # more micro batches of this step follow
        if self._spike is not None:
            self._record(trainer, pl_module, self._spike)
        if due(trainer, self._stepped):
            write(trainer, {names.GRAD_NORM: self._norm, names.SKIPPED: float(self._total)})
        self._stepped, self._parts, self._spike = trainer.global_step, [], None

    def _record(self, trainer: pl.Trainer, stage: pl.LightningModule, spike: Spike) -> None:
        mine = [
            (key, float(loss))
            for keys, losses in self._parts
            for key, loss in zip(keys, losses.tolist(), strict=True)
        ]
        samples = sorted(
            (pair for part in gather(mine) for pair in part),
            key=lambda pair: -pair[1] if math.isfinite(pair[1]) else -math.inf,
        )
        spike = replace(spike, samples=samples)
        self._total += 1
        self._skipped = [s for s in self._skipped if s > spike.step - self.window] + [spike.step]
        worst = ", ".join(f"{key} ({loss:.4g})" for key, loss in samples[:4])
        message = f"stage {stage.name}: step {spike.step} skipped: {spike.why}; samples {worst}"
        if trainer.is_global_zero:
            log.warning("%s", message)
            append_rows(_spikes(trainer), [asdict(spike)])
        columns = {k: v for k, v in asdict(spike).items() if k != "samples"}
        write_table(trainer, "spikes", [*columns, "worst"], [[*columns.values(), worst]])
        write(trainer, {names.SKIPPED: float(self._total)})
        row = [s for s in self._skipped if s > spike.step - self.in_a_row]
        why = ""
        if not self._losses:
            why = "no step has been accepted yet"
        elif len(row) == self.in_a_row:
            why = f"{self.in_a_row} steps in a row were skipped"
        elif len(self._skipped) >= self.in_window:
            why = f"{len(self._skipped)} of the last {self.window} steps were skipped"
        if why:
            raise NotLearningError(
                f"{message}; {why}: lower the learning rate, or check the samples in spikes.jsonl"
            )

    def state_dict(self) -> dict[str, Any]:
        """The statistics that the next steps are checked against."""
        return {
            "losses": list(self._losses),
            "norms": list(self._norms),
            "skipped": list(self._skipped),
            "total": self._total,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the statistics from a checkpoint."""
        self._losses = deque(state_dict["losses"], maxlen=self.window)
        self._norms = deque(state_dict["norms"], maxlen=self.window)
        self._skipped, self._total = list(state_dict["skipped"]), state_dict["total"]


def _spikes(trainer: pl.Trainer) -> Path:
    return Path(trainer.default_root_dir) / "spikes.jsonl"


def total_norm(gradients: list[Tensor]) -> Tensor:
    """The norm of all gradients together, sharded ones included; on every rank."""
    norms = []
    for sharded in (False, True):
        some = [g for g in gradients if isinstance(g, DTensor) == sharded]
        if some:
            norm = torch.nn.utils.get_total_norm(some, foreach=not sharded)
            norms.append(gathered(norm).float())
    return functools.reduce(torch.hypot, norms) if norms else torch.zeros(())
