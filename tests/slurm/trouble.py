"""Callbacks that cause failures in a test's jobs, which import them by PYTHONPATH."""

import time
from pathlib import Path

import pytorch_lightning as pl


class Pace(pl.Callback):
    """Makes every step take at least `sleep_s` seconds."""

    def __init__(self, *, sleep_s: float) -> None:
        self.sleep_s = sleep_s

    def on_train_batch_start(self, *_):
        time.sleep(self.sleep_s)


class Hang(pl.Callback):
    """One rank hangs at a step, once."""

    def __init__(self, *, step: int, rank: int) -> None:
        self.step, self.rank = step, rank

    def on_train_batch_start(self, trainer, *_):
        flag = Path(trainer.default_root_dir, "hung")
        here = (trainer.global_step, trainer.global_rank) == (self.step, self.rank)
        if here and not flag.exists():
            flag.touch()
            time.sleep(10_000)


class LongValidation(pl.Callback):
    """The first validation takes ten minutes."""

    def on_validation_batch_start(self, trainer, *_):
        flag = Path(trainer.default_root_dir, "validating")
        if not flag.exists():
            flag.touch()
            time.sleep(600)


class Fail(pl.Callback):
    """One rank fails at a step."""

    def __init__(self, *, step: int, rank: int) -> None:
        self.step, self.rank = step, rank

    def on_train_batch_start(self, trainer, *_):
        if (trainer.global_step, trainer.global_rank) == (self.step, self.rank):
            raise RuntimeError("planted")
