"""A run as its folder tells it: config, figures over all legs, samples, and how it ended."""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cascade.comparison.run_record import Record, Videos, flat, numbered, steps_told
from cascade.curves import read_curves
from cascade.files.atomic import read_json
from cascade.files.lock import is_locked

#: A program's last word before it failed: `error: …`, `ValueError: …`.
ERROR = re.compile(r"^(?:\S+: )?(?:error|[\w.]*(?:Error|Exception|Interrupt))\b.*", re.IGNORECASE)
#: What is said of a leg that ended in good order, by the run, by its job or by Slurm.
STOPPED = re.compile(
    r"stopped.*; run the same command to resume|^requeueing job \d+|\*\*\* JOB \d+ .*CANCELLED AT"
)
#: What is said of one when others failed; how a leg begins; what refused a command, and ended none.
NOISE = re.compile(r"srun: |slurmstepd: error: \*\*\* STEP")
BEGUN = re.compile(r"-- started |(?:\[[^\]]*\])*[ -]*resuming from ")
REFUSED = re.compile(r"trained with another config|another process trains here")
#: What a folder must hold one of, to be a run's.
MARKS = ("config.json", "metrics", "bundle", "evaluation.json", "output.log")


def is_run(folder: Path) -> bool:
    """Whether a run lives, or was to live, in this folder."""
    return any((folder / mark).exists() for mark in MARKS)


def read_folder(folder: Path) -> Record:
    """The run in this folder; whatever it lacks is left out."""
    state, error = status(folder)
    return Record(
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
    """The flat config; empty where the run never came so far."""
    path = folder / "config.json"
    return flat(read_json(path)) if path.is_file() else {}


def finished(folder: Path) -> bool:
    """Whether a run has left what it was made for: a trained stage, or an evaluation."""
    return (folder / "bundle").is_dir() or (folder / "evaluation.json").is_file()


def status(folder: Path) -> tuple[str, str | None]:
    """How far the run came, in words, and what it said last if it failed."""
    if finished(folder):
        return "finished", None
    if is_locked(folder / ".lock"):
        return "running", None
    error = last_error(folder)
    if error is not None:
        return "failed", error
    step = steps_done(folder)
    return (f"stopped at step {step}" if step else "not begun"), None


def steps_done(folder: Path) -> int:
    """How many steps the run has made, by its checkpoints and its figures."""
    saved = [int(path.name) for path in (folder / "checkpoints").glob("[0-9]*") if path.is_dir()]
    return max([steps_told(read_curves(folder)), *saved])


def last_error(folder: Path, *, refusals: bool = False) -> str | None:
    """The error in which the last leg ended; none where it ended well.

    A command that was refused was no leg, unless it is that one that is asked for.
    """
    logs = [
        path for path in (folder / "output.log", *folder.glob("slurm/*_log.out")) if path.is_file()
    ]
    for path in sorted(logs, key=lambda path: path.stat().st_mtime, reverse=True):
        lines = path.read_text(errors="replace").splitlines()[-60:]
        said = [line.strip() for line in lines if line.strip()]
        skipped = False  # inside what a refused command said
        for line in reversed(said):
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
        if said and not skipped:
            return None
    return None


def read_samples(folder: Path) -> dict[int, Videos]:
    """Step → what each video was made for → its file; none where they are still being written.

    Raises:
        ValueError: a name leads out of the step's folder.
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
                raise ValueError(f"{path} names a video outside of its own folder: {name}")
        names = numbered(captions.values())
        files = [path.parent / name for name in captions]
        at_step = {n: _there(f) for n, f in zip(names, files, strict=True) if f.is_file()}
        if at_step:
            videos[int(path.parent.name)] = at_step
    return videos


def _there(path: Path) -> Callable[[], Path]:
    return lambda: path


def read_figures(folder: Path) -> dict[str, float]:
    """What an evaluation in this folder found, as `<stage>/<attribute>`, shares in [0, 1]."""
    path = folder / "evaluation.json"
    if not path.is_file():
        return {}
    return {
        f"{stage}/{name}": float(share["share"])
        for stage, found in read_json(path).items()
        for name, share in found["shares"].items()
    }
