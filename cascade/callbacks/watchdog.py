"""Ends a run that hangs, after every rank has written the stacks of its threads.

Long work between batches (samples, a save) reports its own progress by `alive`.
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
    """Checks from a thread that batches start and end, in training and in validation.

    After `hang_s` seconds without progress, each rank writes the stacks of its threads to
    `stacks/<job>-<restart>-rank<n>.txt` and ends; a Slurm job is requeued. If no Python thread can
    run, the interpreter's own timer (`faulthandler`) does the same.

    Args:
        hang_s: must be less than the ten minutes after which NCCL ends a rank without saying which
            one hung.
        first_hang_s: the limit until the first batch of this process has ended, since restoring and
            compiling take longer; at least `hang_s`.
        others_s: seconds that the other ranks have to write their stacks.
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
                raise ValueError(
                    f"watchdog: {name} must be positive and finite, or null, got {value:g}"
                )
        if not 0 <= others_s < math.inf:
            raise ValueError(f"watchdog: others_s must be finite and at least 0, got {others_s:g}")
        self.hang_s, self.first_hang_s, self.others_s = hang_s, first_hang_s, others_s
        self._place, self._beat, self._limit = "", 0.0, 0.0
        self._over = threading.Event()
        self._file: TextIO | None = None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Open the file for the stacks and start watching."""
        if self.hang_s is None:
            return
        job = os.environ.get("SLURM_JOB_ID", str(os.getpid()))
        restart = os.environ.get("SLURM_RESTART_COUNT", "0")
        path = Path(
            trainer.default_root_dir, "stacks", f"{job}-{restart}-rank{trainer.global_rank}.txt"
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        for old in path.parent.glob(f"*-rank{trainer.global_rank}.txt"):
            if not old.stat().st_size:  # left by a process that was killed
                old.unlink()
        self._file = path.open("w")
        self._over = threading.Event()
        self._limit = max(self.hang_s, self.first_hang_s or 0)
        self.alive(f"{stage} of {pl_module.name}")
        threading.Thread(
            target=self._watch, args=(self._over, self._file), name="watchdog", daemon=True
        ).start()

    def teardown(self, *_: Any, **__: Any) -> None:
        """Stop watching; remove the file if it is empty."""
        self._over.set()
        if self._file is None:
            return
        faulthandler.cancel_dump_traceback_later()
        self._file.close()
        path, self._file = Path(self._file.name), None
        if not path.stat().st_size:
            path.unlink()

    def on_exception(self, *_: Any) -> None:
        """Stop watching."""
        self.teardown()

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        """Report progress."""
        self.alive(f"the step after {trainer.global_step}")

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Report progress; after the first batch, the usual limit holds."""
        self._limit = self.hang_s or 0
        self.alive(f"after step {trainer.global_step}")

    def on_validation_start(self, trainer: pl.Trainer, *_: Any) -> None:
        """Report progress."""
        self.alive(f"the validation at step {trainer.global_step}")

    def on_validation_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        """Report progress."""
        self.alive(f"the validation at step {trainer.global_step}")

    def on_validation_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Report progress; without training, the usual limit holds after the first batch."""
        if trainer.state.fn != "fit":
            self._limit = self.hang_s or 0
        self.alive(f"the validation at step {trainer.global_step}")

    def on_validation_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Report progress."""
        self.alive(f"after the validation at step {trainer.global_step}")

    def on_save_checkpoint(self, trainer: pl.Trainer, *_: Any) -> None:
        """Report progress: the state is collected but not yet written."""
        self.alive(f"the save at step {trainer.global_step}")

    def on_load_checkpoint(self, *_: Any) -> None:
        """Report progress."""
        self.alive("after restoring the checkpoint")

    def alive(self, place: str) -> None:
        """Report progress; `place` is what starts now, named if the run hangs there."""
        self._place, self._beat = place, time.monotonic()

    def _watch(self, over: threading.Event, file: TextIO) -> None:
        assert self.hang_s is not None
        while not over.wait(min(self.hang_s / 10, 10)):
            if time.monotonic() - self._beat > self._limit:
                self._end(file)
            # This acts even if no Python thread can run from here on.
            faulthandler.dump_traceback_later(self._limit + self.others_s, file=file, exit=True)

    def _end(self, file: TextIO) -> None:
        seconds = time.monotonic() - self._beat
        message = f"no progress for {seconds:.0f} s, limit {self._limit:.0f} s: {self._place}"
        file.write(f"{socket.gethostname()}, process {os.getpid()}: {message}\n\n")
        file.flush()
        faulthandler.dump_traceback(file)
        log.error("%s; the stacks of all threads are in %s", message, file.name)
        time.sleep(self.others_s)
        slurm.end_here()


def alive(trainer: pl.Trainer, place: str) -> None:
    """Report this rank's progress to the run's watchdog, if it has one."""
    for callback in getattr(trainer, "callbacks", ()):  # Lightning sets it late
        if isinstance(callback, Watchdog):
            callback.alive(place)
