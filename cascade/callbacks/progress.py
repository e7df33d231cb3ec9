"""How far a run is, in a line: its batches of all its batches, their speed, the loss."""

from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import TQDMProgressBar


class Progress(TQDMProgressBar):
    """A bar over the whole run; Lightning's own counts epochs, of which a run has no number."""

    def on_train_start(self, trainer: pl.Trainer, *_: Any) -> None:
        """From where the leg begins, so that the speed is this leg's."""
        super().on_train_start(trainer)
        done = trainer.global_step * trainer.accumulate_grad_batches
        self._name(trainer)
        self.train_progress_bar.initial = self.train_progress_bar.n = done

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
