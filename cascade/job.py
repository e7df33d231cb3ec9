"""`python -m cascade.job RUN STUCK OVERRIDES…`: a run inside its Slurm job.

The job's script is cascade/launch/script.py. Its signals are held from the first moment, before the
long imports.
"""

import json
import multiprocessing
import os
import sys
from pathlib import Path

from cascade import slurm
from cascade.files.atomic import write_whole


class StuckError(RuntimeError):
    """A job began again and again, and got nowhere."""


def count_legs(run: Path, stuck: int) -> None:
    """Note where this leg begins.

    Raises:
        StuckError: so do the last `stuck` legs of the same job.
    """
    job = os.environ["SLURM_JOB_ID"]
    path = run / "slurm" / f"{job}.legs.json"
    step = max(
        (int(p.name) for p in (run / "checkpoints").glob("[0-9]*") if p.name.isdigit()), default=0
    )
    legs = [*(json.loads(path.read_bytes()) if path.exists() else []), step]
    write_whole(path, json.dumps(legs).encode())
    if len(legs) > stuck and set(legs[-stuck - 1 :]) == {step}:
        raise StuckError(
            f"job {job} began {stuck} times at step {step} and made no checkpoint beyond it; "
            f"its logs say why; the same `make train` begins anew, and cluster.stuck allows more"
        )


def main() -> None:
    """Train, until the end or until Slurm asks to stop."""
    slurm.stop.hold()
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
