"""Runs that W&B recorded offline, read by W&B's own reader (`wandb leet inspect`).

A leg is one process of a run: from its start or resume to its end. Each leg has a W&B folder of its
own under one run id and counts its rows from 0, so legs are joined by the trainer's step. A killed
process loses its last rows; the run's CSV metrics fill the gaps.
"""

import functools
import json
import logging
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from cascade.comparison.run_folder import finished, steps_done
from cascade.comparison.run_record import RunRecord, Videos, flat, numbered
from cascade.curves import Curve, read_curves
from cascade.parts import anonymous

log = logging.getLogger(__name__)

STEP = "trainer/global_step"


def legs_in(folder: Path) -> list[Path]:
    """W&B's folders of legs at or directly below `folder`, in order of their start."""
    if any(folder.glob("run-*.wandb")):
        return [folder]
    found = {path.parent for path in folder.glob("*run-*-*/run-*.wandb")}
    return sorted(found, key=lambda path: path.name.removeprefix("offline-"))


def records_of(leg: Path) -> Iterator[dict[str, Any]]:
    """The records of one leg, in order; a truncated file gives the records before the cut.

    Raises:
        ValueError: the file is not W&B's.
    """
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(leg)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or ["no message"]
        raise ValueError(f"{leg}: W&B cannot read this run: {last[0]}")
    for line in done.stdout.splitlines():
        yield json.loads(line)


class LoggedRows:
    """A run's metrics and videos, collected from its rows; a later row replaces an earlier one."""

    def __init__(self) -> None:
        self._curves: dict[str, dict[int, float]] = {}
        self.videos: dict[int, Videos] = {}
        self.media: dict[str, None] = {}
        self._step = 0

    def add(self, row: Mapping[str, Any], fetcher: Callable[[str], Callable[[], Path]]) -> None:
        """Add one row; `fetcher(path)` returns a function that fetches the run's file `path`."""
        step = self._step = int(row.get(STEP, self._step))
        for name, value in nested(row).items():
            if isinstance(value, Mapping):
                videos = list(video_paths(value))
                names = numbered(caption for caption, _ in videos)
                shown = {n: fetcher(path) for n, (_, path) in zip(names, videos, strict=True)}
                if shown:
                    self.media[name] = None
                    done = step + 1  # steps done, as `samples/` names its folders
                    self.videos[done] = {**self.videos.get(done, {}), **shown}
            elif name[0] != "_" and name not in (STEP, "epoch") and is_number(value):
                self._curves.setdefault(name, {})[step] = float(value)

    def fill(self, curves: Mapping[str, Curve]) -> int:
        """Add the values of `curves` that no row had; returns how many."""
        count = 0
        for name, curve in curves.items():
            known = self._curves.setdefault(name, {})
            for step, value in curve:
                count += step not in known
                known.setdefault(step, value)
        return count

    @property
    def curves(self) -> dict[str, Curve]:
        """Each metric over the trainer's steps."""
        return {name: sorted(points.items()) for name, points in self._curves.items()}


def nested(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row with W&B's flattened values (`samples.videos`, `samples.count`) nested again."""
    kinds = {name.removesuffix("._type") for name in row if name.endswith("._type")}
    joined: dict[str, Any] = {}
    for name, value in row.items():
        kind = next((kind for kind in kinds if name.startswith(f"{kind}.")), None)
        if kind is None:
            joined[name] = value
        else:
            joined.setdefault(kind, {})[name.removeprefix(f"{kind}.")] = value
    return joined


def video_paths(value: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(Caption, path) of each video in a logged value, if it holds any.

    Raises:
        ValueError: a path is outside the run's own files.
    """
    several: Sequence[Any] = value.get("videos") or ([value] if "path" in value else [])
    for number, video in enumerate(several):
        path = PurePosixPath(str(video.get("path", "")))
        if video.get("_type") == "video-file" and path.parts[:1] == ("media",):
            if ".." in path.parts:
                raise ValueError(f"W&B run: the path of a video is outside the run's files: {path}")
            yield str(video.get("caption") or f"video {number}"), str(path)


def display_name(run: Mapping[str, Any]) -> str:
    """A run's name as `group/name`."""
    parts = (run.get("run_group"), run.get("display_name") or run.get("run_id"))
    return "/".join(part for part in parts if part)


def is_number(value: object) -> bool:
    """Whether a value is a number; JSON writes a non-finite number as a string."""
    if isinstance(value, str):
        return value in ("NaN", "Infinity", "-Infinity")
    return isinstance(value, int | float) and not isinstance(value, bool)


def read_offline(legs: Iterable[Path]) -> list[RunRecord]:
    """The runs recorded in these folders, each with all of its legs."""
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
                    name = display_name(record["run"])
                case "config":
                    config |= record["config"].get("update", {})
                case "history":
                    rows.add(record["history"]["item"], files)
                case "exit":
                    ended = True
    home = legs[-1][0].parent.parent
    filled = rows.fill(read_curves(home))
    if filled:
        log.info("%s: %d values missing in W&B's files are from the CSV in %s", name, filled, home)
    complete = "finished" if finished(home) else "ended"
    return RunRecord(
        name=name,
        source=f"{legs[-1][0]} ({len(legs)} legs)" if len(legs) > 1 else str(legs[-1][0]),
        state=complete if ended else "killed or running",
        config=flat(anonymous({key: value for key, value in config.items() if key != "_wandb"})),
        curves=rows.curves,
        videos=rows.videos,
        done=steps_done(home),
    )
