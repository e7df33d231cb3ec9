"""The state of jobs in Slurm's queue, and their logs."""

import os
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

#: States of a job that runs, or will run.
ALIVE = frozenset(
    (
        *("PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING"),
        *("RESIZING", "STAGE_OUT", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "RESV_DEL_HOLD"),
    )
)

#: States that a job may leave at once, because Slurm requeues it, or keep.
PASSING = frozenset(("NODE_FAIL", "PREEMPTED", "BOOT_FAIL"))
#: Seconds after which such a state is final.
SETTLES_S = 10.0


def states(jobs: Iterable[str]) -> dict[str, str]:
    """The state of each job; `GONE` if the queue no longer lists it.

    Raises:
        OSError: `squeue` fails.
    """
    return {job: _state(job) for job in jobs}


def _state(job: str) -> str:
    """The state of a job; waits while Slurm may still requeue it, as after a node failure."""
    end = time.monotonic() + SETTLES_S
    while (state := _query(job)) in PASSING and time.monotonic() < end:
        time.sleep(0.5)
    return state


def _query(job: str) -> str:
    answer = subprocess.run(
        ["squeue", "--noheader", "--states=all", "--jobs", job, "--format=%T"],
        capture_output=True,
        text=True,
        check=False,
    )
    if answer.returncode and "Invalid job id" not in answer.stderr:
        raise OSError(f"squeue: {answer.stderr.strip()}")
    return answer.stdout.strip() or "GONE"


class Logs:
    """Prints the logs of running jobs as they grow; with several jobs, lines start with the run."""

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
        """Print new text: complete lines only, except for the last time."""
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
    """Wait until all jobs have ended; returns their final states."""
    ended: dict[str, str] = {}
    jobs = list(jobs)
    while True:
        try:
            now = states(job for job in jobs if job not in ended)
        except OSError:  # try again
            now = {}
        ended |= {job: state for job, state in now.items() if state not in ALIVE}
        if logs is not None:
            logs.show(last=len(ended) == len(set(jobs)))
        if len(ended) == len(set(jobs)):
            return ended
        time.sleep(poll_s)
