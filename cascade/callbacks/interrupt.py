"""Ctrl-C, SIGTERM and a leg's end stop a run at a step's boundary, where its state is whole."""

import signal
import time
from types import FrameType
from typing import Any

import pytorch_lightning as pl


class Interrupt(pl.Callback):
    """Raises a flag in the handler, never more; all ranks agree on it after the step.

    The trainer then stops, and `cascade.train` saves. A second signal ends the process at once.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self, *, leg_s: float | None = None) -> None:
        self.leg_s = leg_s
        self._asked = False
        self._began = 0.0
        self._before: dict[int, Any] = {}

    def on_train_start(self, *_: Any) -> None:
        """Take the signals; a leg's time counts from here."""
        self._began = time.monotonic()
        for number in self.SIGNALS:
            self._before[number] = signal.signal(number, self._handle)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if self._asked:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        self._asked = True

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Stop after this step where any rank was asked to."""
        over = self.leg_s is not None and time.monotonic() - self._began > self.leg_s
        asked = self._asked or over
        if trainer.world_size > 1:
            asked = trainer.strategy.reduce_boolean_decision(asked, all=False)
        if asked:
            trainer.should_stop = True

    def on_train_end(self, *_: Any) -> None:
        """Give the signals back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
