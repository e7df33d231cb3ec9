"""Stops a run between steps, on a signal or at its time limit."""

import re
import signal
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytorch_lightning as pl
import torch

from cascade import slurm
from cascade.checkpoint.checkpoint_folder import folder_of
from cascade.trainer import callbacks

# Ordered, so that the maximum over ranks decides.
_CONTINUE, _LEG_OVER, _STOP = range(3)
#: The start of messages of gloo and NCCL errors that have no type of their own.
_PROCESS_GROUP_ERROR = re.compile(
    r"\[\S*/gloo/\S+:\d+\] "
    r"|Application timeout caused pair closure"  # gloo, once one of its calls has timed out
    r"|Gloo connectFullMesh failed"
    r"|(\[Rank \d+\] )?NCCL (error|Error|communicator)\b"
)


class Interrupt(pl.Callback):
    """Stops the run after the current step when any rank received a signal or its time is up.

    All ranks agree after each step. The trainer then stops without another validation, and
    `Checkpoints` saves. Inside a Slurm job the signals are handled by `cascade.slurm`; elsewhere
    here: the handler sets a flag, and a second signal ends the process at once.

    A Slurm job's time limit is anticipated: the run stops when the remaining time is less than
    twice the duration of a save plus the longest recent step, with its validation or samples.

    A leg is the part of a run that one process trains: from its start or resume to the next stop.

    Args:
        leg_s: seconds of training after which the leg ends; run the same command to resume.
        spare_s: additional seconds to leave before a job's time limit.
        first_save_s: the assumed duration of a save before one was measured.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM)
    #: Recent steps among which the longest counts; the leg's first, which may compile, is excluded.
    REMEMBERED = 1000
    #: Seconds after which the job's time limit is queried again, since it may have been changed.
    ASK_AGAIN_S = 60.0
    #: Seconds that a rank waits after losing another, so that the other can report its own failure.
    TELL_S = 10.0

    def __init__(
        self, *, leg_s: float | None = None, spare_s: float = 20.0, first_save_s: float = 60.0
    ) -> None:
        self.leg_s, self.spare_s, self.first_save_s = leg_s, spare_s, first_save_s
        self._asked = False
        self._began = self._stepped = self._ask_end_at = 0.0
        self._step = 0
        self._ends_at: float | None = None
        self._steps: deque[float] = deque(maxlen=self.REMEMBERED)
        self._before: dict[int, Any] = {}
        self._group: Any = None

    def on_train_start(self, trainer: pl.Trainer, *_: Any) -> None:
        """Install the signal handlers; the leg's time counts from here."""
        self._began = self._stepped = time.monotonic()
        self._step = trainer.global_step
        if trainer.world_size > 1:
            # On the CPU: reading a result from the device would make each step wait for it.
            self._group = torch.distributed.new_group(backend="gloo")
        if slurm.stop.handles_signals:
            slurm.stop.nothing_to_lose = lambda: False
            if trainer.is_global_zero:
                self._ends_at = slurm.ends_at()
            return
        for number in self.SIGNALS:
            self._before[number] = signal.signal(number, self._handle)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if self._asked:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        self._asked = True

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Stop after this step if any rank wants to."""
        if trainer.global_step == self._step:
            return  # between two batches of one step
        self._step = trainer.global_step
        now = time.monotonic()
        if self._stepped > self._began:
            self._steps.append(now - self._stepped)
        self._stepped = now
        self._stop_if_asked(trainer)

    def on_validation_start(self, trainer: pl.Trainer, *_: Any) -> None:
        """Let a signal end the process during a validation whose step is saved already."""
        if trainer.state.fn != "fit" or trainer.sanity_checking or not slurm.stop.handles_signals:
            return
        if folder_of(Path(trainer.default_root_dir), trainer.global_step).is_dir():
            _write_rows(trainer)
            self._set_nothing_to_lose(lambda: True)

    def on_validation_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Stop after a validation that had to be finished first."""
        if trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        self._set_nothing_to_lose(lambda: False)
        self._stop_if_asked(trainer)

    def _stop_if_asked(self, trainer: pl.Trainer) -> None:
        if trainer.global_step >= trainer.max_steps:
            return  # this was the last step
        decision = self._own_decision(trainer)
        if trainer.world_size > 1:
            agreed = torch.tensor(decision)
            torch.distributed.all_reduce(agreed, torch.distributed.ReduceOp.MAX, self._group)
            decision = int(agreed)
        if decision == _STOP and slurm.stop.handles_signals:
            slurm.stop.ask(slurm.stop.why or "another rank was asked to stop")
        if decision:
            trainer.should_stop = True
            trainer.limit_val_batches = 0  # Lightning would validate before it stops

    def _own_decision(self, trainer: pl.Trainer) -> int:
        """Whether this rank would continue or stop, before the ranks agree."""
        if self._asked or slurm.stop.why is not None or self._job_ends(trainer):
            return _STOP
        over = self.leg_s is not None and time.monotonic() - self._began > self.leg_s
        return _LEG_OVER if over else _CONTINUE

    def _job_ends(self, trainer: pl.Trainer) -> bool:
        """Whether the remaining time is just enough to save."""
        if self._ends_at is None:
            return False
        saves = [getattr(callback, "save_s", None) for callback in callbacks(trainer)]
        save_s = max((s for s in saves if s is not None), default=self.first_save_s)
        needed_s = 2 * (save_s + max(self._steps, default=0.0)) + self.spare_s
        if self._ends_at - time.time() > needed_s:
            return False
        if time.monotonic() > self._ask_end_at:
            self._ask_end_at = time.monotonic() + self.ASK_AGAIN_S
            self._ends_at = slurm.ends_at()
            return self._job_ends(trainer)
        slurm.stop.ask(f"the job ends in {self._ends_at - time.time():.0f} s")
        return True

    def _set_nothing_to_lose(self, when: Callable[[], bool]) -> None:
        """From now on a signal, or one received already, ends the process at once if `when()`."""
        if not slurm.stop.handles_signals:
            return
        slurm.stop.nothing_to_lose = when
        if slurm.stop.why is not None and when():
            slurm.end_here()

    def on_exception(
        self, _trainer: pl.Trainer, _module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Requeue the job of a rank that lost another, unless the other failed by itself."""
        self._restore_handlers()
        if not slurm.stop.handles_signals:
            return
        if _is_lost_peer(exception):
            slurm.request_requeue()
            time.sleep(self.TELL_S)
        else:
            slurm.forbid_requeue()

    def on_train_end(self, *_: Any) -> None:
        """Restore the signal handlers."""
        self._restore_handlers()

    def _restore_handlers(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def teardown(self, trainer: pl.Trainer, _module: pl.LightningModule, stage: str) -> None:
        """Let a signal end the process: the last step is saved, and the rest can be repeated."""
        if stage == "fit" and slurm.stop.handles_signals:
            _write_rows(trainer)
            slurm.stop.nothing_to_lose = lambda: True


def _is_lost_peer(error: BaseException) -> bool:
    """Whether the error means that another rank has ended, as when its node crashes."""
    named = isinstance(error, RuntimeError) and _PROCESS_GROUP_ERROR.match(str(error))
    return isinstance(error, torch.distributed.DistError) or bool(named)


def _write_rows(trainer: pl.Trainer) -> None:
    """Flush the loggers: the process may end here."""
    for logger in trainer.loggers:
        logger.save()
