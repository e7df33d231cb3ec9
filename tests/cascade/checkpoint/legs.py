"""Small runs to kill and damage; a leg is the real command in a process forked from this one.

The parent process has imported everything, so a leg takes a second or two of one core. A leg
reports by shared memory what it is doing, so that it can be killed at a chosen moment.
"""

import csv
import json
import mmap
import os
import sys
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

import cascade.train
import data.train.module  # noqa: F401 (imported once for all legs)
import stages.stage  # noqa: F401 (the same)
from cascade.callbacks.checkpoints import Checkpoints

#: What a leg may be doing, and the weight with which this moment is chosen for a kill.
MOMENTS = {"start": 2, "step": 4, "save": 4, "validation": 4, "end": 1}
OVERRIDES = (
    *("stage=demo/base", "debug=smoke", "data.make=null", "logger=csv"),
    *("trainer.enable_progress_bar=false", "shrink.batch=4", "data.validation.share=0.2"),
    *("data.validation.samples=4", "callbacks.worth.clips=4", "~callbacks.start"),
)


class Doing:
    """What a leg is doing, in memory shared with its parent process."""

    def __init__(self) -> None:
        self.names = list(MOMENTS)
        self.memory = mmap.mmap(-1, 1 + len(self.names))

    def clear(self) -> None:
        self.memory[:] = bytes(len(self.memory))

    def set(self, name: str) -> None:
        number = self.names.index(name)
        self.memory[1 + number] = min(255, self.memory[1 + number] + 1)
        self.memory[0] = number

    @property
    def now(self) -> str:
        return self.names[self.memory[0]]

    def times(self, name: str) -> int:
        return self.memory[1 + self.names.index(name)]

    def watch(self) -> None:
        """Have the `Checkpoints` callback of this process report it."""

        def report(method: str, before: str | None, after: str | None) -> None:
            own = getattr(Checkpoints, method)

            def reported(*args: Any, **kwargs: Any) -> Any:
                if before is not None:
                    self.set(before)
                result = own(*args, **kwargs)
                if after is not None:
                    self.set(after)
                return result

            setattr(Checkpoints, method, reported)

        report("_save", "save", "step")
        report("on_train_batch_start", None, "step")
        report("on_validation_start", None, "validation")
        report("on_validation_end", None, "step")
        report("on_train_end", None, "end")


def start(folder: Path, name: str, *overrides: str, doing: Doing | None = None) -> int:
    """Start a leg of the run `name` on the shards in `folder`; returns its process id."""
    if doing is not None:
        doing.clear()
    child = os.fork()
    if child:
        return child
    try:
        log = (folder / f"{name}.log").open("ab")
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        if doing is not None:
            doing.watch()
        places = (f"name={name}", f"paths.runs={folder}", f"data.shards={folder / 'shards'}")
        sys.argv = ["cascade.train", *OVERRIDES, *places, *overrides]
        cascade.train.main()
    except SystemExit as error:
        sys.stderr.write(f"{error}\n")
        sys.stderr.flush()
        os._exit(1)
    except BaseException as error:
        sys.stderr.write(f"{error!r}\n")
        sys.stderr.flush()
        os._exit(2)
    os._exit(0)


def run_of(folder: Path, name: str) -> Path:
    """The folder of a run."""
    return folder / "demo/base" / name


def rows(run: Path) -> dict[tuple[str, int], set[str]]:
    """Every logged value, as text, by name and step; without times."""
    found: dict[tuple[str, int], set[str]] = {}
    for line in (run / "losses.jsonl").read_text().splitlines():
        row = json.loads(line)
        name = "/".join(str(row[part]) for part in ("logsnr", "bucket", "mode"))
        value = f"{row['loss']} of {row['clips']}"
        found.setdefault((f"losses/{name}", row["step"]), set()).add(value)
    for path in sorted(run.glob("metrics/*/metrics.csv")):
        text = path.read_text()
        lines = text[: text.rfind("\n") + 1].splitlines()  # the last one may be cut short
        for row in csv.DictReader(lines):
            for name, value in row.items():
                if value and name.startswith(("train/", "val/")):
                    found.setdefault((name, int(row["step"])), set()).add(value)
    return found


def unlike(one: Any, other: Any, where: str = "") -> list[str]:
    """The places where two states differ in at least one bit."""
    if isinstance(one, dict) and isinstance(other, dict):
        keys = sorted({*one, *other}, key=str)
        parts = [unlike(one.get(k), other.get(k), f"{where}/{k}") for k in keys]
    elif isinstance(one, list | tuple) and len(one) == len(other):
        pairs = enumerate(zip(one, other, strict=True))
        parts = [unlike(a, b, f"{where}/{i}") for i, (a, b) in pairs]
    elif isinstance(one, torch.Tensor):
        return [] if torch.equal(one, other) else [where]
    else:
        return [] if one == other else [f"{where}: {one} {other}"]
    return [line for part in parts for line in part]


class StopAt(pl.Callback):
    """Stops a run after a step, as a signal or a time limit does."""

    def __init__(self, *, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == self.step:
            trainer.should_stop, trainer.limit_val_batches = True, 0
