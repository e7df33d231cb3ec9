"""A run's progress: batches done of all batches, speed, loss."""

import sys
import time
from datetime import timedelta
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import TQDMProgressBar


class RunProgressBar(TQDMProgressBar):
    """A progress bar over all steps of the run; Lightning's own bar covers one epoch.

    If stderr is not a terminal, it prints a plain line every `every_s` seconds instead.
    """

    def __init__(self, *, every_s: float = 30.0) -> None:
        super().__init__()
        self.every_s = every_s
        self._plain = not sys.stderr.isatty()
        self._began = self._printed = 0.0
        self._first = 0

    @property
    def is_disabled(self) -> bool:
        """Whether the bar is off, as it is without a terminal."""
        return self._plain or super().is_disabled

    def on_train_start(self, trainer: pl.Trainer, *_: Any) -> None:
        """Start the bar at the resumed step, so that the speed is of this process alone."""
        super().on_train_start(trainer)
        done = trainer.global_step * trainer.accumulate_grad_batches
        self._name(trainer)
        self.train_progress_bar.initial = self.train_progress_bar.n = done
        self._first, self._began = trainer.global_step, time.monotonic()
        self._printed = self._began

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *rest: Any
    ) -> None:
        """Move the bar, or print a line every `every_s` seconds."""
        super().on_train_batch_end(trainer, pl_module, *rest)
        now = time.monotonic()
        if not self._plain or not trainer.is_global_zero or now - self._printed < self.every_s:
            return
        self._printed = now
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
        """Keep the bar's name and total: the whole run is one epoch."""
        self._name(trainer)

    def _name(self, trainer: pl.Trainer) -> None:
        self.train_progress_bar.total = trainer.max_steps * trainer.accumulate_grad_batches
        self.train_progress_bar.set_description(str(trainer.lightning_module.name))

    def get_metrics(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        """The metrics to show, without the logger's version number."""
        metrics = super().get_metrics(trainer, pl_module)
        return {name: value for name, value in metrics.items() if name != "v_num"}
