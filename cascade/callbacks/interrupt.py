"""A signal, a leg's end or Slurm's stop a run at a step's boundary, where its state is whole."""

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

_NO, _LEG_OVER, _ASKED = range(3)
#: How gloo's and NCCL's errors begin that have no type of their own; anyone may say "connection".
_OF_THE_GROUP = re.compile(
    r"\[\S*/gloo/\S+:\d+\] "
    r"|Application timeout caused pair closure"  # gloo, once one of its calls has timed out
    r"|Gloo connectFullMesh failed"
    r"|(\[Rank \d+\] )?NCCL (error|Error|communicator)\b"
)


class Interrupt(pl.Callback):
    """Learns that the run is to stop; all ranks agree on it after the step.

    The trainer then stops without another validation, and `Checkpoints` saves. Inside a Slurm job
    the signals are `cascade.slurm`'s. Elsewhere they are taken here: the handler raises a flag, and
    a second signal ends the process at once.

    A job's end is foreseen: the run stops when the time left is no more than twice what a save and
    the longest of the last steps take, with the validation or the samples that came with it.

    Args:
        leg_s: seconds of training after which the run stops, to be gone on with by hand.
        spare_s: seconds that are left to a job besides.
        first_save_s: what a save is taken to last until one was measured.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM)
    #: The longest of so many last steps counts; the first of a leg may compile, and does not.
    REMEMBERED = 1000
    #: Seconds after which the job's end is asked for again: someone may have moved it.
    ASK_AGAIN_S = 60.0
    #: Seconds that a rank which lost another stays, so that the other can tell of its own failure.
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
        """Take the signals; a leg's time counts from here."""
        self._began = self._stepped = time.monotonic()
        self._step = trainer.global_step
        if trainer.world_size > 1:
            # On the hosts: an answer from the devices would have each step wait for them.
            self._group = torch.distributed.new_group(backend="gloo")
        if slurm.stop.held:
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
        """Stop after this step where any rank was asked to."""
        if trainer.global_step == self._step:
            return  # between two batches of one step
        self._step = trainer.global_step
        now = time.monotonic()
        if self._stepped > self._began:
            self._steps.append(now - self._stepped)
        self._stepped = now
        self._stop_if_asked(trainer)

    def on_validation_start(self, trainer: pl.Trainer, *_: Any) -> None:
        """A validation is not waited for where its step is saved: the next leg has it again."""
        if trainer.state.fn != "fit" or trainer.sanity_checking or not slurm.stop.held:
            return
        if folder_of(Path(trainer.default_root_dir), trainer.global_step).is_dir():
            _write_rows(trainer)
            self._lose_nothing(lambda: True)

    def on_validation_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Stop after the validation where it had to be waited for."""
        if trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        self._lose_nothing(lambda: False)
        self._stop_if_asked(trainer)

    def _stop_if_asked(self, trainer: pl.Trainer) -> None:
        if trainer.global_step >= trainer.max_steps:
            return  # this was the last step
        wish = self._wish(trainer)
        if trainer.world_size > 1:
            agreed = torch.tensor(wish)
            torch.distributed.all_reduce(agreed, torch.distributed.ReduceOp.MAX, self._group)
            wish = int(agreed)
        if wish == _ASKED and slurm.stop.held:
            slurm.stop.ask("asked on another rank" if slurm.stop.why is None else slurm.stop.why)
        if wish:
            trainer.should_stop = True
            trainer.limit_val_batches = 0  # a trainer that stops would validate first

    def _wish(self, trainer: pl.Trainer) -> int:
        """What this rank wants."""
        if self._asked or slurm.stop.why is not None or self._job_ends(trainer):
            return _ASKED
        over = self.leg_s is not None and time.monotonic() - self._began > self.leg_s
        return _LEG_OVER if over else _NO

    def _job_ends(self, trainer: pl.Trainer) -> bool:
        """Whether the time left is just enough to save."""
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

    def _lose_nothing(self, when: Callable[[], bool]) -> None:
        """From now on a signal ends the process at once, if `when` says so; one that came too."""
        if not slurm.stop.held:
            return
        slurm.stop.nothing_to_lose = when
        if slurm.stop.why is not None and when():
            slurm.end_here()

    def on_exception(
        self, _trainer: pl.Trainer, _module: pl.LightningModule, exception: BaseException
    ) -> None:
        """A rank that lost another is queued again with its job, unless the other has failed."""
        self._give_back()
        if not slurm.stop.held:
            return
        if _lost_another(exception):
            slurm.queue_again()
            time.sleep(self.TELL_S)
        else:
            slurm.never_again()

    def on_train_end(self, *_: Any) -> None:
        """Give the signals back."""
        self._give_back()

    def _give_back(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def teardown(self, trainer: pl.Trainer, _module: pl.LightningModule, stage: str) -> None:
        """The last step is saved: what comes then can be had again."""
        if stage == "fit" and slurm.stop.held:
            _write_rows(trainer)
            slurm.stop.nothing_to_lose = lambda: True


def _lost_another(error: BaseException) -> bool:
    """Whether the error tells of another rank's end, as with a node that crashes."""
    told = isinstance(error, RuntimeError) and _OF_THE_GROUP.match(str(error))
    return isinstance(error, torch.distributed.DistError) or bool(told)


def _write_rows(trainer: pl.Trainer) -> None:
    """Have the loggers write what they hold: the process may end here."""
    for logger in trainer.loggers:
        logger.save()
