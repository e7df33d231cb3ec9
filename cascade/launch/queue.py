"""What Slurm's queue says of a job."""

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


def states(jobs: Iterable[str]) -> dict[str, str]:
    """The state of each job; `GONE` of one that the queue has forgotten.

    Raises:
        OSError: the queue does not answer.
    """
    found = {}
    for job in jobs:
        asked = subprocess.run(
            ["squeue", "--noheader", "--states=all", "--jobs", job, "--format=%T"],
            capture_output=True,
            text=True,
            check=False,
        )
        if asked.returncode and "Invalid job id" not in asked.stderr:
            raise OSError(f"squeue: {asked.stderr.strip()}")
        found[job] = asked.stdout.strip() or "GONE"
    return found


class Logs:
    """The logs of running jobs, printed as they grow."""

    def __init__(self, paths: Iterable[Path]) -> None:
        self._read = dict.fromkeys(paths, 0)

    def show(self) -> None:
        """Print what is new."""
        for path, place in self._read.items():
            if path.exists():
                with path.open("rb") as file:
                    file.seek(place)
                    new = file.read()
                self._read[path] = place + len(new)
                sys.stdout.buffer.write(new)
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
            logs.show()
        if len(ended) == len(set(jobs)):
            return ended
        time.sleep(poll_s)
