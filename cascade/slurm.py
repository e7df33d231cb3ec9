"""Inside a Slurm job: its ranks, its end, what asks it to stop, and how it is queued again.

The signals have one owner. They are blocked in this process and in all that it starts (Slurm sends
them to loaders and loggers too), and a thread of its own takes them. It never saves: it ends the
process where there is nothing to lose, and raises a flag elsewhere, on which the ranks agree at a
step's boundary (cascade/callbacks/interrupt.py). The job's script queues the job again where the
file that `CASCADE_AGAIN` names is there (cascade/launch/script.py).
"""

import logging
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lightning_fabric.plugins.environments.slurm import SLURMEnvironment

log = logging.getLogger(__name__)

#: What Slurm, or who works with it, sends to a job that is to stop.
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)
#: Names the file that has the job queued again.
AGAIN = "CASCADE_AGAIN"
#: The status of a process that ended where there was nothing to lose; it has srun end the others.
AGAIN_STATUS = 75


def environment() -> "list[SLURMEnvironment]":
    """The ranks as Slurm tells them; none outside a job, or where torchrun tells them inside one.

    The signals stay ours.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return []
    from lightning_fabric.plugins.environments.slurm import SLURMEnvironment  # takes seconds

    return [SLURMEnvironment(auto_requeue=False)] if SLURMEnvironment.detect() else []


class Stop:
    """Whether the job was asked to stop, and by what."""

    def __init__(self) -> None:
        self.why: str | None = None
        #: Whether this moment's state can be had again without saving: so it is before training.
        self.nothing_to_lose: Callable[[], bool] = lambda: True
        self.held = False

    def hold(self) -> None:
        """Take the signals, before anything else is started."""
        self.held = True
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        for number in SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        threading.Thread(target=self._take, name="signals", daemon=True).start()

    def ask(self, why: str) -> None:
        """Stop at the next step's boundary, and be queued again."""
        if self.why is None:
            log.warning("%s: stopping at the next step", why)
        self.why = why

    def _take(self) -> None:
        while True:
            self.ask(signal.Signals(signal.sigwait(SIGNALS)).name)
            if self.nothing_to_lose():
                end_here()


#: This process's.
stop = Stop()


def end_here() -> None:
    """End this process and with it the job's others, which is queued again."""
    queue_again()
    os._exit(AGAIN_STATUS)


def queue_again() -> None:
    """Have the job's script queue it again."""
    if os.environ.get(AGAIN):
        Path(os.environ[AGAIN]).touch()


def never_again() -> None:
    """Have the job's script not queue it again, whatever other ranks say: this one has failed."""
    if os.environ.get(AGAIN):
        Path(f"{os.environ[AGAIN]}.not").touch()


def requeue() -> None:
    """Queue this job again, where Slurm asked it to stop."""
    if stop.why is None:
        return
    if os.environ.get(AGAIN):
        queue_again()
    elif "SLURM_JOB_ID" in os.environ:
        log.warning("%s: no script of ours runs this job; queue it again yourself", stop.why)


def ends_at() -> float | None:
    """When Slurm ends this job, in seconds since the epoch; none where nothing says so."""
    if "SLURM_JOB_ID" not in os.environ:
        return None
    left = _ask("squeue", "--noheader", "--jobs", os.environ["SLURM_JOB_ID"], "--format=%L")
    if left is not None:
        return _seconds(left)
    told = os.environ.get("SLURM_JOB_END_TIME", "")
    return float(told) if told.isdigit() else None


def _seconds(left: str) -> float | None:
    """The end, of `[days-][[hours:]minutes:]seconds` from now; none of `UNLIMITED` and the like."""
    days, _, clock = left.rpartition("-")
    parts = clock.split(":")
    if not all(part.isdigit() for part in (*parts, days or "0")):
        return None
    seconds = 0
    for part in parts:
        seconds = 60 * seconds + int(part)
    return time.time() + 86400 * int(days or 0) + seconds


def _ask(*command: str) -> str | None:
    """What a command of Slurm says; none where it is not there or fails."""
    try:
        told = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return None
    return told.stdout.strip() or None
