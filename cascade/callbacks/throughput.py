"""How fast a stage trains: steps and clips per second, and TFLOP/s where they can be counted."""

import time
from typing import Any

import pytorch_lightning as pl


class Throughput(pl.Callback):
    """Logs steps/s and clips/s over each logging interval, samples and validation left out."""

    def __init__(self) -> None:
        self._spent = 0.0
        self._clips = 0
        self._steps = 0
        self._began = 0.0

    def on_train_batch_start(self, *_: Any) -> None:
        """The clock runs from here."""
        self._began = time.perf_counter()

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        _outputs: Any,
        batch: Any,
        _batch_idx: int,
    ) -> None:
        """To here; what waits for data is not in it."""
        self._spent += time.perf_counter() - self._began
        self._clips += len(batch["position"]) * trainer.world_size
        self._steps += 1
        if self._steps % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]  # set by Trainer
            pl_module.log("throughput/clips_per_s", self._clips / self._spent)
            pl_module.log("throughput/batches_per_s", self._steps / self._spent)
            self._spent, self._clips, self._steps = 0.0, 0, 0
