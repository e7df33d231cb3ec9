"""Find the runs to compare: folders, globs, a sweep's folder, W&B's folders or its service."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

from cascade.comparison.offline import legs_in, read_offline
from cascade.comparison.run_folder import is_run, read_folder
from cascade.comparison.run_record import RunRecord, renamed
from cascade.comparison.service import SCHEME, read_service

#: How many levels of subfolders are searched for runs.
DEPTH = 6


def find(runs: str, *, scratch: Path) -> list[RunRecord]:
    """The runs at the places that `runs` lists, separated by spaces; each once, with short names.

    Raises:
        ValueError: a place has no run, or `runs` is empty.
    """
    places = shlex.split(runs)
    if not places:
        raise ValueError(
            "compare: RUNS is empty; name runs, such as "
            "RUNS='runs/demo/base/* wandb:entity/project/group'"
        )
    found: list[RunRecord] = []
    for place in places:
        if place.startswith(SCHEME):
            found += read_service(place, scratch=scratch)
        else:
            found += read_local(place)
    return renamed({record.source: record for record in found}.values())


def read_local(place: str) -> list[RunRecord]:
    """The runs at a folder, a glob, or W&B's files.

    Raises:
        ValueError: no run is there.
    """
    paths = _paths(place)
    folders = [folder for path in paths for folder in below(path)]
    legs = [leg for path in paths if not is_run(path) for leg in legs_in(path)]
    if not folders and not legs:
        raise ValueError(f"{place}: no run in this place or {DEPTH} levels of folders below it")
    return [*(_read(folder) for folder in folders), *(read_offline(legs) if legs else [])]


def _paths(place: str) -> list[Path]:
    """The path itself if it exists, as one whose name has brackets; else what the glob matches."""
    path = Path(place)
    if path.exists():
        return [path]
    root = Path(path.anchor)
    return sorted(
        found for found in root.glob(str(path.relative_to(root))) if not found.name.startswith(".")
    )


def _read(folder: Path) -> RunRecord:
    """The run in a folder; a damaged run gets the state `damaged` and its error."""
    try:
        return read_folder(folder)
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        message = f"{folder}: {error!r}" if not isinstance(error, ValueError) else str(error)
        return RunRecord(name=str(folder), source=str(folder), state="damaged", error=message)


def natural(path: Path) -> list[tuple[bool, float, str]]:
    """A sort key that orders numbers in names by value."""
    parts = re.split(r"(-?\d+(?:\.\d+)?(?:e-?\d+)?)", path.name)
    return [(i % 2 == 0, 0.0 if i % 2 == 0 else float(p), p) for i, p in enumerate(parts)]


def below(folder: Path, depth: int = DEPTH) -> Iterator[Path]:
    """The folders of runs at or below `folder`, in natural order of their names."""
    if not folder.is_dir() or any(folder.glob("run-*.wandb")):
        return
    if is_run(folder):
        yield folder
    elif depth:
        for inner in sorted(folder.iterdir(), key=natural):
            if inner.name[0] != "." and inner.name not in ("wandb", "multirun"):
                yield from below(inner, depth - 1)
