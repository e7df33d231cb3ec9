"""Runs that W&B recorded without a network, read by W&B's own reader (`wandb leet inspect`).

A run that was stopped and went on has a folder for each of its legs, all of one run id, and each
counts its own rows from 0: what joins them is the trainer's step. A killed process loses its last
rows; the figures that the run keeps as CSV beside W&B's fill the gaps.
"""

import functools
import json
import logging
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from cascade.comparison.run_record import RunRecord, Videos, flat, numbered
from cascade.curves import Curve, read_curves

log = logging.getLogger(__name__)

STEP = "trainer/global_step"


def legs_in(folder: Path) -> list[Path]:
    """W&B's folders of runs at or directly below `folder`, in order of their start."""
    if any(folder.glob("run-*.wandb")):
        return [folder]
    found = {path.parent for path in folder.glob("*run-*-*/run-*.wandb")}
    return sorted(found, key=lambda path: path.name.removeprefix("offline-"))


def records_of(leg: Path) -> Iterator[dict[str, Any]]:
    """The records of one leg, in order; those of a file that was cut short, as far as they go.

    Raises:
        ValueError: the file is not W&B's.
    """
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(leg)]
    told = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    if told.returncode:
        said = told.stderr.strip().splitlines()[-1:] or ["nothing"]
        raise ValueError(f"{leg}: W&B cannot read this run; it says: {said[0]}")
    for line in told.stdout.splitlines():
        yield json.loads(line)


class LoggedRows:
    """Rows of a run gathered in the order in which they were logged; a later one counts."""

    def __init__(self) -> None:
        self._curves: dict[str, dict[int, float]] = {}
        self.videos: dict[int, Videos] = {}
        self.media: dict[str, None] = {}
        self._step = 0

    def add(self, row: Mapping[str, Any], found: Callable[[str], Callable[[], Path]]) -> None:
        """One row; `found` says how to come by a file that it names."""
        step = self._step = int(row.get(STEP, self._step))
        for name, value in nested(row).items():
            if isinstance(value, Mapping):
                videos = list(media(value))
                names = numbered(caption for caption, _ in videos)
                shown = {n: found(path) for n, (_, path) in zip(names, videos, strict=True)}
                if shown:
                    self.media[name] = None
                    self.videos[step + 1] = {
                        **self.videos.get(step + 1, {}),
                        **shown,
                    }  # as folders say
            elif name[0] != "_" and name not in (STEP, "epoch") and is_number(value):
                self._curves.setdefault(name, {})[step] = float(value)

    def fill(self, curves: Mapping[str, Curve]) -> int:
        """Take what no row had; returns how many values that were."""
        count = 0
        for name, curve in curves.items():
            known = self._curves.setdefault(name, {})
            for step, value in curve:
                count += step not in known
                known.setdefault(step, value)
        return count

    @property
    def curves(self) -> dict[str, Curve]:
        """Each figure over the trainer's steps."""
        return {name: sorted(points.items()) for name, points in self._curves.items()}


def nested(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row whose values of several parts (`samples.videos`, `samples.count`) are joined again."""
    kinds = {name.removesuffix("._type") for name in row if name.endswith("._type")}
    joined: dict[str, Any] = {}
    for name, value in row.items():
        kind = next((kind for kind in kinds if name.startswith(f"{kind}.")), None)
        if kind is None:
            joined[name] = value
        else:
            joined.setdefault(kind, {})[name.removeprefix(f"{kind}.")] = value
    return joined


def media(value: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(caption, path) of each video of a logged value; nothing where it holds none.

    Raises:
        ValueError: a path leads out of the run's own files.
    """
    several: Sequence[Any] = value.get("videos") or ([value] if "path" in value else [])
    for number, video in enumerate(several):
        path = PurePosixPath(str(video.get("path", "")))
        if video.get("_type") == "video-file" and path.parts[:1] == ("media",):
            if ".." in path.parts:
                raise ValueError(f"a run names a video outside of its own files: {path}")
            yield str(video.get("caption") or f"video {number}"), str(path)


def named(run: Mapping[str, Any]) -> str:
    """A run's group and its name in it."""
    parts = (run.get("run_group"), run.get("display_name") or run.get("run_id"))
    return "/".join(part for part in parts if part)


def is_number(value: object) -> bool:
    """Whether it is one, or what JSON writes for one that is not finite."""
    if isinstance(value, str):
        return value in ("NaN", "Infinity", "-Infinity")
    return isinstance(value, int | float) and not isinstance(value, bool)


def read_offline(legs: Iterable[Path]) -> list[RunRecord]:
    """The runs that these folders hold, each with all of its legs."""
    runs: dict[str, list[tuple[Path, list[dict[str, Any]]]]] = {}
    for leg in legs:
        identity = leg.name.rpartition("-")[2]
        runs.setdefault(identity, []).append((leg, list(records_of(leg))))
    return [_joined(identity, parts) for identity, parts in runs.items()]


def _file(leg: Path, path: str) -> Callable[[], Path]:
    return lambda: leg / "files" / path


def _joined(identity: str, legs: list[tuple[Path, list[dict[str, Any]]]]) -> RunRecord:
    rows, name, ended = LoggedRows(), identity, False
    config: dict[str, Any] = {}
    for leg, records in legs:
        ended, files = False, functools.partial(_file, leg)
        for record in records:
            match record["type"]:
                case "run":
                    config |= record["run"].get("config", {}).get("update", {})
                    name = named(record["run"])
                case "config":
                    config |= record["config"].get("update", {})
                case "history":
                    rows.add(record["history"]["item"], files)
                case "exit":
                    ended = True
    home = legs[-1][0].parent.parent
    filled = rows.fill(read_curves(home))
    if filled:
        log.info("%s: %d values that W&B lacks are from the CSV in %s", name, filled, home)
    return RunRecord(
        name=name,
        source=f"{legs[-1][0]} ({len(legs)} legs)" if len(legs) > 1 else str(legs[-1][0]),
        state="ended" if ended else "killed or running",
        config=flat({key: value for key, value in config.items() if key != "_wandb"}),
        curves=rows.curves,
        videos=rows.videos,
    )
