"""Power-function averages (EMA) of a run's weights: tracked, saved, used to validate and sample."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytorch_lightning as pl
from torch import Tensor

from cascade.ema import PowerEMA
from cascade.parallel.shards import gathered
from cascade.trainer import callbacks


class EMA(pl.Callback):
    """Tracks averages of several widths; the first is validated, sampled and put in the bundle."""

    def __init__(self, *, sigma_rels: Sequence[float]) -> None:
        self.sigma_rels = tuple(sigma_rels)
        self._ema: PowerEMA | None = None
        self._loaded: dict[str, Any] | None = None
        self._step = 0
        self._swap: Any = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start from the current weights, or from the averages in the checkpoint."""
        self._begin(trainer, pl_module)

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
                f"ema: the checkpoint of step {self._step} holds no averaged weights; "
                "start the run from step 0"
            )

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any
    ) -> None:
        """Update the averages once per optimizer step."""
        if trainer.global_step > self._step:
            self._step = trainer.global_step
            assert self._ema is not None
            self._ema.update(pl_module, self._step)

    @contextmanager
    def swapped(self, module: pl.LightningModule) -> Iterator[None]:
        """Inside, `module` has the averaged weights; before the first step, its own weights."""
        if self._ema is None and self._loaded is not None:
            raise ValueError("ema: the averages were loaded but the run has not started yet")
        if self._step == 0:
            yield
            return
        assert self._ema is not None
        with self._ema.swapped(module, self.sigma_rels[0]):
            yield

    def weights(self, module: pl.LightningModule) -> dict[str, Tensor]:
        """A CPU copy of the module's state with the averaged weights, on rank 0; empty elsewhere.

        Every rank must call it, since the weights may be sharded.
        """
        self._begin(module.trainer, module)  # a run resumed at its last step does not train
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
        """The averages, as the checkpoint stores them."""
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
    raise ValueError("callbacks.ema is required, but this trainer has no EMA callback")
