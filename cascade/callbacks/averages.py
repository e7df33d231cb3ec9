"""The power-function averages of a run's weights, kept, saved and lent to whoever samples."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytorch_lightning as pl
from torch import Tensor

from cascade.ema import PowerEMA
from cascade.parallel.shards import whole
from cascade.trainer import callbacks


class EMA(pl.Callback):
    """Tracks several widths; the first is what validates, samples and goes into the bundle."""

    def __init__(self, *, sigma_rels: Sequence[float]) -> None:
        self.sigma_rels = tuple(sigma_rels)
        self._ema: PowerEMA | None = None
        self._loaded: dict[str, Any] | None = None
        self._step = 0
        self._lent: Any = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin from the weights as they are, or go on where the checkpoint stopped."""
        self._begin(trainer, pl_module)

    def _begin(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Once; a run that resumes at its last step validates without training first."""
        if self._ema is not None:
            return
        self._step = trainer.global_step
        self._ema = PowerEMA(module, sigma_rels=self.sigma_rels)
        if self._loaded is not None:
            self._ema.load_state_dict(self._loaded)
            self._loaded = None
        elif self._step:
            raise ValueError(f"step {self._step} is resumed without its averages; start anew")

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any
    ) -> None:
        """Average once per optimizer step."""
        if trainer.global_step > self._step:
            self._step = trainer.global_step
            assert self._ema is not None
            self._ema.update(pl_module, self._step)

    @contextmanager
    def lent(self, module: pl.LightningModule) -> Iterator[None]:
        """Inside, `module` has the averaged weights; its own before the first step."""
        if self._ema is None and self._loaded is not None:
            raise ValueError("the averages are loaded, and not yet begun: they cannot be lent")
        if self._step == 0:
            yield
            return
        assert self._ema is not None
        with self._ema.swapped(module, self.sigma_rels[0]):
            yield

    def weights(self, module: pl.LightningModule) -> dict[str, Tensor]:
        """A copy, on the CPU, of the module's state with the averaged weights.

        Every rank must ask, since weights may be divided among them; the first alone gets them.
        """
        self._begin(module.trainer, module)  # a run that resumes at its last step does not train
        state = {}
        with self.lent(module):
            for name, value in module.state_dict().items():
                one = whole(value.detach())
                if module.global_rank == 0:
                    state[name] = one.to("cpu", copy=True)
        return state

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Validate the averaged weights."""
        self._begin(trainer, pl_module)
        self._lent = self.lent(pl_module)
        self._lent.__enter__()

    def on_validation_end(self, _trainer: pl.Trainer, _module: pl.LightningModule) -> None:
        """Give the trained weights back."""
        self._lent.__exit__(None, None, None)

    def state_dict(self) -> dict[str, Any]:
        """The averages, for the checkpoint."""
        return {} if self._ema is None else self._ema.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Kept until the module is on its device."""
        self._loaded = state_dict or None


def averages(trainer: pl.Trainer) -> EMA:
    """The run's averages.

    Raises:
        ValueError: the run keeps none.
    """
    for callback in callbacks(trainer):
        if isinstance(callback, EMA):
            return callback
    raise ValueError("this run averages no weights; keep `callbacks.ema`")
