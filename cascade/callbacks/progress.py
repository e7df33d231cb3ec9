"""How far a run is, in a line: its batches of all its batches, their speed, the loss."""

import sys
import time
from datetime import timedelta
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import TQDMProgressBar


class RunProgressBar(TQDMProgressBar):
    """A bar over the whole run; Lightning's own counts epochs, of which a run has no number.

    Where nobody sees it move, a plain line every `every_s` seconds stands for it.
    """

    def __init__(self, *, every_s: float = 30.0) -> None:
        super().__init__()
        self.every_s = every_s
        self._plain = not sys.stderr.isatty()
        self._began = self._told = 0.0
        self._first = 0

    @property
    def is_disabled(self) -> bool:
        """A bar that nobody sees is not drawn."""
        return self._plain or super().is_disabled

    def on_train_start(self, trainer: pl.Trainer, *_: Any) -> None:
        """From where the leg begins, so that the speed is this leg's."""
        super().on_train_start(trainer)
        done = trainer.global_step * trainer.accumulate_grad_batches
        self._name(trainer)
        self.train_progress_bar.initial = self.train_progress_bar.n = done
        self._first, self._began = trainer.global_step, time.monotonic()
        self._told = self._began

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *told: Any
    ) -> None:
        """Move the bar, or say a line when the time has come."""
        super().on_train_batch_end(trainer, pl_module, *told)
        now = time.monotonic()
        if not self._plain or not trainer.is_global_zero or now - self._told < self.every_s:
            return
        self._told = now
        step, steps = trainer.global_step, trainer.max_steps
        speed = (step - self._first) / (now - self._began)
        parts = [f"{pl_module.name}: step {step} of {steps}"]
        for name, value in self.get_metrics(trainer, pl_module).items():
            parts.append(f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}")
        if speed:
            left = timedelta(seconds=round((steps - step) / speed))
            parts.append(f"{speed:.3g} steps/s, {left} left")
        sys.stderr.write(", ".join(parts) + "\n")
        sys.stderr.flush()

    def on_train_epoch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        """The one epoch is the run."""
        self._name(trainer)

    def _name(self, trainer: pl.Trainer) -> None:
        self.train_progress_bar.total = trainer.max_steps * trainer.accumulate_grad_batches
        self.train_progress_bar.set_description(str(trainer.lightning_module.name))

    def get_metrics(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        """The loss; no version of a logger."""
        metrics = super().get_metrics(trainer, pl_module)
        return {name: value for name, value in metrics.items() if name != "v_num"}
