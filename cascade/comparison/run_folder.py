"""Read a run from its folder: config, metrics over all legs, samples, and how it ended."""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cascade.comparison.run_record import RunRecord, Videos, flat, numbered, steps_logged
from cascade.curves import read_curves
from cascade.files.atomic import read_json
from cascade.files.lock import is_locked

#: The line in which a failed program names its error: `error: …`, `ValueError: …`.
ERROR = re.compile(r"^(?:\S+: )?(?:error|[\w.]*(?:Error|Exception|Interrupt))\b.*", re.IGNORECASE)
#: Lines of a leg that stopped without an error, by the run, by its job or by Slurm.
STOPPED = re.compile(
    r"stopped.*; run the same command to resume|^requeueing job \d+|\*\*\* JOB \d+ .*CANCELLED AT"
)
#: Slurm's lines about a process that ended because another one failed.
NOISE = re.compile(r"srun: |slurmstepd: error: \*\*\* STEP")
#: The first line of a job.
BEGUN = re.compile(r"-- started |(?:\[[^\]]*\])*[ -]*resuming from ")
#: Lines of a command that was refused before it started.
REFUSED = re.compile(r"trained with another config|another process trains here")
#: A run's folder holds at least one of these.
MARKS = ("config.json", "metrics", "bundle", "evaluation.json", "output.log")


def is_run(folder: Path) -> bool:
    """Whether this is the folder of a run, started or planned."""
    return any((folder / mark).exists() for mark in MARKS)


def read_folder(folder: Path) -> RunRecord:
    """The run in this folder; parts that it lacks are empty."""
    state, error = status(folder)
    return RunRecord(
        name=str(folder),
        source=str(folder),
        state=state,
        config=read_config(folder),
        curves=read_curves(folder),
        figures=read_figures(folder),
        videos=read_samples(folder),
        error=error,
        done=steps_done(folder),
    )


def read_config(folder: Path) -> dict[str, Any]:
    """The flat config; empty if the run ended before it wrote one."""
    path = folder / "config.json"
    return flat(read_json(path)) if path.is_file() else {}


def finished(folder: Path) -> bool:
    """Whether a run has its result: a bundle, or an evaluation."""
    return (folder / "bundle").is_dir() or (folder / "evaluation.json").is_file()


def status(folder: Path) -> tuple[str, str | None]:
    """The run's state in words, and its error if it failed."""
    if finished(folder):
        return "finished", None
    if is_locked(folder / ".lock"):
        return "running", None
    error = last_error(folder)
    if error is not None:
        return "failed", error
    step = steps_done(folder)
    return (f"stopped at step {step}" if step else "not started"), None


def steps_done(folder: Path) -> int:
    """The number of steps done, by the run's checkpoints and metrics."""
    saved = [int(path.name) for path in (folder / "checkpoints").glob("[0-9]*") if path.is_dir()]
    return max([steps_logged(read_curves(folder)), *saved])


def last_error(folder: Path, *, refusals: bool = False) -> str | None:
    """The error that ended the last leg; None if it ended without one.

    The lines of a refused command are skipped, for it is not a leg; `refusals` counts them too.
    """
    logs = [
        path for path in (folder / "output.log", *folder.glob("slurm/*_log.out")) if path.is_file()
    ]
    for path in sorted(logs, key=lambda path: path.stat().st_mtime, reverse=True):
        lines = path.read_text(errors="replace").splitlines()[-60:]
        lines = [line.strip() for line in lines if line.strip()]
        skipped = False  # inside the lines of a refused command
        for line in reversed(lines):
            if BEGUN.match(line):
                if not skipped:
                    return None
                skipped = False
            elif not refusals and REFUSED.search(line):
                skipped = True
            elif skipped or NOISE.match(line):
                continue
            elif STOPPED.search(line):
                return None
            elif ERROR.match(line):
                return line
        if lines and not skipped:
            return None
    return None


def read_samples(folder: Path) -> dict[int, Videos]:
    """Step → caption → a function that returns the file; half-written samples are left out.

    Raises:
        ValueError: a file name leads outside the step's folder.
    """
    videos: dict[int, Videos] = {}
    for path in sorted(folder.glob("samples/*/captions.json")):
        if not path.parent.name.isdecimal():
            continue
        try:
            captions: Mapping[str, str] = json.loads(path.read_text())
        except json.JSONDecodeError:
            continue
        for name in captions:
            if Path(name).name != name:
                raise ValueError(f"{path}: the video {name!r} is outside this folder")
        names = numbered(captions.values())
        files = [path.parent / name for name in captions]
        at_step = {n: _returning(f) for n, f in zip(names, files, strict=True) if f.is_file()}
        if at_step:
            videos[int(path.parent.name)] = at_step
    return videos


def _returning(path: Path) -> Callable[[], Path]:
    return lambda: path


def read_figures(folder: Path) -> dict[str, float]:
    """The results of an evaluation in this folder: `<stage>/<measure>/<figure>` → its mean."""
    path = folder / "evaluation.json"
    if not path.is_file():
        return {}
    return {
        f"{stage}/{measure}/{name}": float(figure["value"])
        for stage, measures in read_json(path).items()
        for measure, scores in measures.items()
        for name, figure in scores["figures"].items()
        if figure["value"] is not None
    }
