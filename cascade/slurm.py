"""Inside a Slurm job: its ranks, its time limit, its signals, and how it is requeued.

One thread handles the signals. They are blocked in this process and in all that it starts, since
Slurm sends them to data loaders and loggers too. The thread does not save: if there is nothing to
lose, it ends the process; otherwise it sets a flag, on which the ranks agree between two steps
(cascade/callbacks/interrupt.py). The job's script requeues the job if the file named by
`CASCADE_AGAIN` exists (cascade/launch/script.py).
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

#: The signals that Slurm or a user sends to stop a job.
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)
#: The environment variable with the path of the file that requests a requeue.
AGAIN = "CASCADE_AGAIN"
#: Exit status of a process that ends with nothing to lose; srun then ends the others.
AGAIN_STATUS = 75


def environment() -> "list[SLURMEnvironment]":
    """Lightning's Slurm plugin, which sets the ranks; empty outside a job and under torchrun.

    It does not handle signals; this module does.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return []
    from lightning_fabric.plugins.environments.slurm import SLURMEnvironment  # takes seconds

    return [SLURMEnvironment(auto_requeue=False)] if SLURMEnvironment.detect() else []


class Stop:
    """Whether the job was asked to stop, and why."""

    def __init__(self) -> None:
        self.why: str | None = None
        #: Whether ending now loses no training, as before the first step.
        self.nothing_to_lose: Callable[[], bool] = lambda: True
        #: Whether `handle_signals` was called: the process runs in a job of ours.
        self.handles_signals = False

    def handle_signals(self) -> None:
        """Block the signals and handle them in a thread; call it before starting anything else."""
        self.handles_signals = True
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        for number in SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        threading.Thread(target=self._wait, name="signals", daemon=True).start()

    def ask(self, why: str) -> None:
        """Ask the run to stop after the current step; the job is requeued then."""
        if self.why is None:
            log.warning("%s: stopping after this step", why)
        self.why = why

    def _wait(self) -> None:
        while True:
            self.ask(signal.Signals(signal.sigwait(SIGNALS)).name)
            if self.nothing_to_lose():
                end_here()


#: The state of this process.
stop = Stop()


def end_here() -> None:
    """End this process, and through srun the job's others; request a requeue of the job."""
    request_requeue()
    os._exit(AGAIN_STATUS)


def request_requeue() -> None:
    """Ask the job's script to requeue the job."""
    if os.environ.get(AGAIN):
        Path(os.environ[AGAIN]).touch()


def forbid_requeue() -> None:
    """Forbid the job's script to requeue the job, whatever other ranks ask: this rank failed."""
    if os.environ.get(AGAIN):
        Path(f"{os.environ[AGAIN]}.not").touch()


def requeue_if_stopped() -> None:
    """Request a requeue if the job was asked to stop."""
    if stop.why is None:
        return
    if os.environ.get(AGAIN):
        request_requeue()
    elif "SLURM_JOB_ID" in os.environ:
        log.warning(
            "%s: this job was not submitted by cascade, so it is not requeued; resubmit it",
            stop.why,
        )


def ends_at() -> float | None:
    """When Slurm ends this job, in seconds since the epoch; None if it is unknown."""
    if "SLURM_JOB_ID" not in os.environ:
        return None
    left = _ask("squeue", "--noheader", "--jobs", os.environ["SLURM_JOB_ID"], "--format=%L")
    if left is not None:
        return _seconds(left)
    end = os.environ.get("SLURM_JOB_END_TIME", "")
    return float(end) if end.isdigit() else None


def _seconds(left: str) -> float | None:
    """The time at which `[days-][[hours:]minutes:]seconds` are over; None of `UNLIMITED` etc."""
    days, _, clock = left.rpartition("-")
    parts = clock.split(":")
    if not all(part.isdigit() for part in (*parts, days or "0")):
        return None
    seconds = 0
    for part in parts:
        seconds = 60 * seconds + int(part)
    return time.time() + 86400 * int(days or 0) + seconds


def _ask(*command: str) -> str | None:
    """The output of a Slurm command; None if it is missing or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None
