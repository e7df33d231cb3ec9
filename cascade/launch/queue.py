"""What Slurm's queue says of a job."""

import os
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

#: A job in one of these goes on, or will.
ALIVE = frozenset(
    (
        *("PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING"),
        *("RESIZING", "STAGE_OUT", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "RESV_DEL_HOLD"),
    )
)

#: A job may be in one of these for a moment before it is queued again, or stay there.
PASSING = frozenset(("NODE_FAIL", "PREEMPTED", "BOOT_FAIL"))
#: Seconds after which it stays there.
SETTLES_S = 10.0


def states(jobs: Iterable[str]) -> dict[str, str]:
    """The state of each job; `GONE` of one that the queue has forgotten.

    Raises:
        OSError: the queue does not answer.
    """
    return {job: _state(job) for job in jobs}


def _state(job: str) -> str:
    """What stays when a look shows what may pass: a lost node's job is queued again at once."""
    end = time.monotonic() + SETTLES_S
    while (state := _look(job)) in PASSING and time.monotonic() < end:
        time.sleep(0.5)
    return state


def _look(job: str) -> str:
    asked = subprocess.run(
        ["squeue", "--noheader", "--states=all", "--jobs", job, "--format=%T"],
        capture_output=True,
        text=True,
        check=False,
    )
    if asked.returncode and "Invalid job id" not in asked.stderr:
        raise OSError(f"squeue: {asked.stderr.strip()}")
    return asked.stdout.strip() or "GONE"


class Logs:
    """The logs of running jobs, printed as they grow; of several, each line after its run."""

    def __init__(self, paths: Iterable[Path]) -> None:
        self._read = dict.fromkeys(paths, 0)
        runs = {path: path.parent.parent for path in self._read}
        several = len(runs) > 1
        shared = os.path.commonpath(runs.values()) if several else ""
        self._before = {
            path: f"{run.relative_to(shared)}: ".encode() if several else b""
            for path, run in runs.items()
        }

    def show(self, *, last: bool = False) -> None:
        """Print what is new; lines that are whole, but at the last."""
        for path, place in self._read.items():
            if path.exists():
                with path.open("rb") as file:
                    file.seek(place)
                    new = file.read()
                if self._before[path]:
                    new = new if last else new[: new.rfind(b"\n") + 1]
                self._read[path] = place + len(new)
                for line in new.splitlines(keepends=True):
                    sys.stdout.buffer.write(self._before[path] + line)
        sys.stdout.buffer.flush()


def wait(jobs: Iterable[str], *, poll_s: float, logs: Logs | None = None) -> dict[str, str]:
    """The states in which the jobs have ended."""
    ended: dict[str, str] = {}
    jobs = list(jobs)
    while True:
        try:
            now = states(job for job in jobs if job not in ended)
        except OSError:  # a queue that does not answer is asked again
            now = {}
        ended |= {job: state for job, state in now.items() if state not in ALIVE}
        if logs is not None:
            logs.show(last=len(ended) == len(set(jobs)))
        if len(ended) == len(set(jobs)):
            return ended
        time.sleep(poll_s)
