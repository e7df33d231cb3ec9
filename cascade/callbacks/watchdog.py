"""Ends a run that hangs, after every rank has written where each of its threads stands.

What lasts beside batches (samples, a save) gives its own signs of life by `alive`.
"""

import faulthandler
import logging
import math
import os
import socket
import threading
import time
from pathlib import Path
from typing import Any, TextIO

import pytorch_lightning as pl

from cascade import slurm

log = logging.getLogger(__name__)


class Watchdog(pl.Callback):
    """Looks from a thread whether batches begin and end, in training and in validation.

    After `hang_s` seconds without that, each rank writes the stacks of its threads to
    `stacks/<job>-<leg>-rank<n>.txt` and ends; a Slurm job is queued again. A process in which no
    Python thread can run does the same by the interpreter's own timer.

    Args:
        hang_s: less than the ten minutes after which NCCL ends a rank with no word of the others.
        first_hang_s: until the first batch of a leg has ended: what is restored or compiled before
            it may take longer. Never less than `hang_s`.
        others_s: seconds that the other ranks are given to write theirs.
    """

    def __init__(
        self,
        *,
        hang_s: float | None = 540.0,
        first_hang_s: float | None = None,
        others_s: float = 10.0,
    ) -> None:
        for name, value in {"hang_s": hang_s, "first_hang_s": first_hang_s}.items():
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"watchdog: {name} must be positive or null, got {value:g}")
        if not 0 <= others_s < math.inf:
            raise ValueError(f"watchdog: others_s must be a number from 0 up, got {others_s:g}")
        self.hang_s, self.first_hang_s, self.others_s = hang_s, first_hang_s, others_s
        self._place, self._beat, self._limit = "", 0.0, 0.0
        self._over = threading.Event()
        self._file: TextIO | None = None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Watch from here."""
        if self.hang_s is None:
            return
        job = os.environ.get("SLURM_JOB_ID", str(os.getpid()))
        leg = os.environ.get("SLURM_RESTART_COUNT", "0")
        path = Path(
            trainer.default_root_dir, "stacks", f"{job}-{leg}-rank{trainer.global_rank}.txt"
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        for killed in path.parent.glob(f"*-rank{trainer.global_rank}.txt"):
            if not killed.stat().st_size:  # a leg's that had no time to take it away
                killed.unlink()
        self._file = path.open("w")
        self._over = threading.Event()
        self._limit = max(self.hang_s, self.first_hang_s or 0)
        self.alive(f"{stage} of {pl_module.name}")
        threading.Thread(
            target=self._watch, args=(self._over, self._file), name="watchdog", daemon=True
        ).start()

    def teardown(self, *_: Any, **__: Any) -> None:
        """Watch no more; a file that says nothing goes."""
        self._over.set()
        if self._file is None:
            return
        faulthandler.cancel_dump_traceback_later()
        self._file.close()
        path, self._file = Path(self._file.name), None
        if not path.stat().st_size:
            path.unlink()

    def on_exception(self, *_: Any) -> None:
        """Watch no more."""
        self.teardown()

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        """A sign of life."""
        self.alive(f"the step after {trainer.global_step}")

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """A sign of life; from the first on, they are expected more often."""
        self._limit = self.hang_s or 0
        self.alive(f"what follows step {trainer.global_step}")

    def on_validation_start(self, trainer: pl.Trainer, *_: Any) -> None:
        """A sign of life."""
        self.alive(f"the validation at step {trainer.global_step}")

    def on_validation_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        """A sign of life."""
        self.alive(f"the validation at step {trainer.global_step}")

    def on_validation_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """A sign of life; from the first on, where nothing is trained, they come more often."""
        if trainer.state.fn != "fit":
            self._limit = self.hang_s or 0
        self.alive(f"the validation at step {trainer.global_step}")

    def on_validation_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """A sign of life."""
        self.alive(f"what follows the validation at step {trainer.global_step}")

    def on_save_checkpoint(self, trainer: pl.Trainer, *_: Any) -> None:
        """A sign of life: what a save holds is there, and has yet to be written."""
        self.alive(f"the save at step {trainer.global_step}")

    def on_load_checkpoint(self, *_: Any) -> None:
        """A sign of life."""
        self.alive("the restored checkpoint's use")

    def alive(self, place: str) -> None:
        """A sign of life; `place` is what begins now, and is said where no other sign follows."""
        self._place, self._beat = place, time.monotonic()

    def _watch(self, over: threading.Event, file: TextIO) -> None:
        assert self.hang_s is not None
        while not over.wait(min(self.hang_s / 10, 10)):
            if time.monotonic() - self._beat > self._limit:
                self._end(file)
            # Should no Python thread run from here on, this does.
            faulthandler.dump_traceback_later(self._limit + self.others_s, file=file, exit=True)

    def _end(self, file: TextIO) -> None:
        told = f"{self._place} has hung for {time.monotonic() - self._beat:.0f} s"
        file.write(f"{socket.gethostname()}, process {os.getpid()}: {told}\n\n")
        file.flush()
        faulthandler.dump_traceback(file)
        log.error("%s; where every thread stands is in %s", told, file.name)
        time.sleep(self.others_s)
        slurm.end_here()


def alive(trainer: pl.Trainer, place: str) -> None:
    """A sign of life of this rank, where the run has a watchdog."""
    for callback in getattr(trainer, "callbacks", ()):  # Lightning sets it late
        if isinstance(callback, Watchdog):
            callback.alive(place)
