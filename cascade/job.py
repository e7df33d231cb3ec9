"""`python -m cascade.job RUN STUCK OVERRIDES…`: train a run inside its Slurm job.

The job's script is made by cascade/launch/script.py. Signals are blocked first, before the imports,
which take seconds.
"""

import json
import multiprocessing
import os
import sys
from pathlib import Path

from cascade import slurm
from cascade.files.atomic import write_atomic


class StuckError(RuntimeError):
    """A job was restarted repeatedly without writing a new checkpoint."""


def count_legs(run: Path, stuck: int) -> None:
    """Record the step at which this leg (this start of the job) resumes.

    Raises:
        StuckError: the last `stuck` legs of the job started at the same step.
    """
    job = os.environ["SLURM_JOB_ID"]
    path = run / "slurm" / f"{job}.legs.json"
    step = max(
        (int(p.name) for p in (run / "checkpoints").glob("[0-9]*") if p.name.isdigit()), default=0
    )
    legs = [*(json.loads(path.read_bytes()) if path.exists() else []), step]
    write_atomic(path, json.dumps(legs).encode())
    if len(legs) > stuck and set(legs[-stuck - 1 :]) == {step}:
        raise StuckError(
            f"job {job} started {stuck} times at step {step} without a new checkpoint, the limit "
            f"of cluster.stuck; see its logs; to try again, run the same `make train`, or raise "
            f"cluster.stuck"
        )


def main() -> None:
    """Train until the run finishes or Slurm asks the job to stop."""
    slurm.stop.handle_signals()
    run, stuck, *overrides = sys.argv[1:]
    if os.environ.get("SLURM_PROCID", "0") == "0":
        try:
            count_legs(Path(run), int(stuck))
        except StuckError as error:
            raise SystemExit(f"error: {error}") from error
    from cascade import train

    sys.argv = ["cascade.train", *overrides]
    try:
        train.main()
    finally:
        for child in multiprocessing.active_children():  # SIGTERM is blocked in them too
            child.kill()


if __name__ == "__main__":
    main()
