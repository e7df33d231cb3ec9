"""The power-function averages of a run's weights: tracked, saved, and swapped in for sampling."""

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from torch import Tensor

from cascade.callbacks.watchdog import alive
from cascade.ema import PowerEMA, exponent
from cascade.parallel.shards import gathered
from cascade.posthoc import remove_after, write_snapshot
from cascade.trainer import callbacks

log = logging.getLogger(__name__)

#: The folder of the snapshots within a run's folder.
SNAPSHOTS = "ema"


class EMA(pl.Callback):
    """Tracks averages of several widths; one of them is validated, sampled and bundled.

    Args:
        sigma_rels: the tracked widths, relative to the run's length.
        use: the width that is validated, sampled and bundled; None: the first.
        snapshot_every: steps between two snapshots of all averages, `ema/<step>.safetensors` in the
            run's folder, from which `cascade.reconstruct` computes other widths; None: only at the
            last step, which allows the tracked widths.
    """

    def __init__(
        self,
        *,
        sigma_rels: Sequence[float],
        use: float | None = None,
        snapshot_every: int | None = None,
    ) -> None:
        self.sigma_rels = tuple(sigma_rels)
        if not self.sigma_rels:
            raise ValueError("callbacks.ema: sigma_rels needs at least one width, got none")
        for sigma_rel in self.sigma_rels:
            exponent(sigma_rel)  # refuses a width that no profile has
        self.use = self.sigma_rels[0] if use is None else use
        self.snapshot_every = snapshot_every
        if self.use not in self.sigma_rels:
            raise ValueError(
                f"callbacks.ema: use must be one of sigma_rels, {list(self.sigma_rels)}, got {use}"
            )
        if snapshot_every is not None and snapshot_every < 1:
            raise ValueError(
                f"callbacks.ema: snapshot_every must be at least 1 step, or null, got "
                f"{snapshot_every}"
            )
        self._ema: PowerEMA | None = None
        self._loaded: dict[str, Any] | None = None
        self._step = 0
        self._swap: Any = None
        #: Seconds spent on snapshots, which are not training.
        self.aside_s = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start from the current weights, or from the averages in the checkpoint.

        Snapshots of later steps are removed, since these steps are trained again.
        """
        self._begin(trainer, pl_module)
        if trainer.is_global_zero:
            remove_after(Path(trainer.default_root_dir) / SNAPSHOTS, trainer.global_step)

    def _begin(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Create the averages once, here or before a validation that precedes any training."""
        if self._ema is not None:
            return
        self._step = trainer.global_step
        self._ema = PowerEMA(module, sigma_rels=self.sigma_rels)
        if self._loaded is not None:
            self._ema.load_state_dict(self._loaded)
            self._loaded = None
        elif self._step:
            raise ValueError(
                f"ema: the checkpoint of step {self._step} has no averages; start a new run"
            )

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any
    ) -> None:
        """Update the averages once per optimizer step, and write a snapshot when one is due."""
        if trainer.global_step == self._step:
            return
        self._step = trainer.global_step
        assert self._ema is not None
        self._ema.update(pl_module, self._step)
        due = self.snapshot_every is not None and self._step % self.snapshot_every == 0
        if due or self._step == trainer.max_steps:
            began = time.perf_counter()
            self._write_snapshot(trainer, self._ema)
            self.aside_s += time.perf_counter() - began

    def _write_snapshot(self, trainer: pl.Trainer, ema: PowerEMA) -> None:
        """Write a snapshot; every rank must call it. A failed write does not end the run."""
        alive(trainer, f"the snapshot of the averages at step {self._step}")
        averages: dict[float, dict[str, Tensor]] = {}
        for sigma in self.sigma_rels:
            full = ((name, gathered(value)) for name, value in ema.average(sigma).items())
            averages[sigma] = {name: value.cpu() for name, value in full if trainer.is_global_zero}
        if trainer.is_global_zero:
            folder = Path(trainer.default_root_dir) / SNAPSHOTS
            try:
                write_snapshot(folder, self._step, averages)
            except OSError as error:
                log.error(
                    "step %d: the snapshot of the averages could not be saved (%s)",
                    self._step,
                    error,
                )

    @contextmanager
    def swapped(self, module: pl.LightningModule) -> Iterator[None]:
        """Inside, `module` has the averaged weights of width `use`; before step 1, its own."""
        if self._ema is None and self._loaded is not None:
            raise ValueError("ema: the averages were loaded but the run has not started yet")
        if self._step == 0:
            yield
            return
        assert self._ema is not None
        with self._ema.swapped(module, self.use):
            yield

    def weights(self, module: pl.LightningModule) -> dict[str, Tensor]:
        """A copy, on the CPU, of the module's state with the averaged weights of width `use`.

        Every rank must call it, since weights may be sharded; only the first gets the weights.
        """
        self._begin(module.trainer, module)  # a run that resumes at its last step does not train
        state = {}
        with self.swapped(module):
            for name, value in module.state_dict().items():
                one = gathered(value.detach())
                if module.global_rank == 0:
                    state[name] = one.to("cpu", copy=True)
        return state

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Validate the averaged weights."""
        self._begin(trainer, pl_module)
        self._swap = self.swapped(pl_module)
        self._swap.__enter__()

    def on_validation_end(self, _trainer: pl.Trainer, _module: pl.LightningModule) -> None:
        """Restore the trained weights."""
        self._swap.__exit__(None, None, None)

    def state_dict(self) -> dict[str, Any]:
        """The averages, for the checkpoint."""
        return {} if self._ema is None else self._ema.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the state until the module is on its device."""
        self._loaded = state_dict or None


def averages(trainer: pl.Trainer) -> EMA:
    """The run's EMA callback.

    Raises:
        ValueError: the run has none.
    """
    for callback in callbacks(trainer):
        if isinstance(callback, EMA):
            return callback
    raise ValueError("callbacks.ema is required here, but the run has none")
