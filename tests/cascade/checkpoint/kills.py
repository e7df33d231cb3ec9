"""Trains a small run, killed at random moments, against one that was not: a script.

    python tests/cascade/checkpoint/kills.py FOLDER [--kills 100] [--seed 0]

Each leg is the real command in a process of its own, forked from one that has imported everything.
It tells by shared memory what it is doing, and is killed by SIGKILL from outside, some random time
after it began that. Whatever a leg logged, and all that the last checkpoint holds, must be the
unbroken run's to the last bit.
"""

import argparse
import csv
import json
import mmap
import os
import random
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

import cascade.train
from cascade.callbacks.checkpoints import Checkpoints
from cascade.checkpoint.folder import folder_of, folders, newest
from data.worlds.write import make_shapes

STEPS = 24
#: What a leg may be doing, and how often it is to be killed then.
MOMENTS = {"start": 2, "step": 4, "save": 4, "validation": 4, "end": 1}
OVERRIDES = (
    *("stage=demo/base", "debug=smoke", "data.make=null", "logger=csv"),
    *("trainer.enable_progress_bar=false", "shrink.batch=4", f"shrink.steps={STEPS}"),
    *("callbacks.checkpoint.every_n_steps=3", "callbacks.samples.every_n_steps=9"),
    *("trainer.val_check_interval=4", "data.val_share=0.2", "data.val_samples=4"),
    *("stage.sampling.steps=2", "stage.train.val_steps=2", "callbacks.worth.clips=4"),
)


class Doing:
    """What a leg is doing, in memory that it shares with whoever kills it."""

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
        """Have the callback that saves tell it, in this process."""

        def telling(method: str, before: str | None, after: str | None) -> None:
            own = getattr(Checkpoints, method)

            def told(*args: Any, **kwargs: Any) -> Any:
                if before is not None:
                    self.set(before)
                result = own(*args, **kwargs)
                if after is not None:
                    self.set(after)
                return result

            setattr(Checkpoints, method, told)

        telling("_save", "save", "step")
        telling("on_train_batch_start", None, "step")
        telling("on_validation_start", None, "validation")
        telling("on_validation_end", None, "step")
        telling("on_train_end", None, "end")


def start(folder: Path, name: str, doing: Doing) -> int:
    """A leg of the run `name`; the process that trains it."""
    doing.clear()
    child = os.fork()
    if child:
        return child
    try:
        log = (folder / f"{name}.log").open("ab")
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        doing.watch()
        places = (f"name={name}", f"paths.runs={folder}", f"data.shards={folder / 'shards'}")
        sys.argv = ["cascade.train", *OVERRIDES, *places]
        cascade.train.main()
    except BaseException as error:
        sys.stderr.write(f"{error!r}\n")
        sys.stderr.flush()
        os._exit(1)
    os._exit(0)


def durations(child: int, doing: Doing) -> dict[str, float]:
    """Follow a leg to its end; for each thing that it does, how long that lasts once (s)."""
    spent, before = dict.fromkeys(MOMENTS, 0.0), time.monotonic()
    while not (ended := os.waitpid(child, os.WNOHANG))[0]:
        time.sleep(0.0005)
        now = time.monotonic()
        spent[doing.now] += now - before
        before = now
    assert ended[1] == 0
    return {name: spent[name] / max(1, doing.times(name)) for name in MOMENTS}


def killed(child: int, doing: Doing, draw: random.Random, lasts: Mapping[str, float]) -> str | None:
    """Kill a leg at a random moment; what it was doing, or none where it had ended by itself."""
    moment = draw.choices(list(MOMENTS), weights=list(MOMENTS.values()))[0]
    nth = draw.randint(1, 3) if moment in ("step", "save", "validation") else 1
    deadline = time.monotonic() + 120
    while moment != "start" and doing.times(moment) < nth:
        if os.waitpid(child, os.WNOHANG)[0]:
            return None
        assert time.monotonic() < deadline
        time.sleep(0.0005)
    time.sleep(draw.uniform(0, lasts[moment]))
    os.kill(child, signal.SIGKILL)
    now = doing.now
    return now if os.WIFSIGNALED(os.waitpid(child, 0)[1]) else None


def rows(run: Path) -> dict[tuple[str, int], set[str]]:
    """Every value that a leg has logged, as it is written, by name and step; times left out."""
    found: dict[tuple[str, int], set[str]] = {}
    for path in sorted(run.glob("metrics/*/metrics.csv")):
        text = path.read_text()
        lines = text[: text.rfind("\n") + 1].splitlines()  # the last one may be cut short
        for row in csv.DictReader(lines):
            for name, value in row.items():
                if value and name.startswith(("train/", "val/")):
                    found.setdefault((name, int(row["step"])), set()).add(value)
    return found


def unlike(one: Any, other: Any, where: str = "") -> list[str]:
    """Where two states differ in a single bit."""
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


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    folder: Path = given.folder.resolve()
    draw, doing = random.Random(given.seed), Doing()
    make_shapes(folder / "shards", clips=24, shard_size=12)
    lasts = durations(start(folder, "whole", doing), doing)
    whole = folder / "demo/base/whole"
    wanted = rows(whole)
    state = torch.load(folder_of(whole, STEPS) / "state", weights_only=True)
    assert all(len(values) == 1 for values in wanted.values())

    table, origins, faults, parts, runs = Counter(), Counter(), [], 0, 0
    while sum(table.values()) < given.kills:
        name, runs = f"killed{runs}", runs + 1
        run = folder / "demo/base" / name
        while True:
            last = sum(table.values()) >= given.kills
            child = start(folder, name, doing)
            now = None if last else killed(child, doing, draw, lasts)
            if now is None:
                code = os.waitpid(child, 0)[1] if last else 0
                if not (run / "bundle").is_dir():
                    faults.append(f"{name}: a leg failed ({code}); see {folder / name}.log")
                break
            table[now] += 1
            parts += len(list(run.glob("checkpoints/.*")))
            found = newest(run)
            origins["step 0" if found is None else "a checkpoint"] += 1
            if found is not None and folders(run)[0] != found.folder:
                faults.append(f"{name}: a kill left {folders(run)[0]} damaged")
        got = rows(run)
        faults += [
            f"{name}: {key} is {values}, was {wanted.get(key)}"
            for key, values in got.items()
            if values != wanted.get(key)
        ]
        faults += [f"{name}: no {key}" for key in wanted.keys() - got.keys()]
        ended = torch.load(folder_of(run, STEPS) / "state", weights_only=True)
        # How many batches of validations began counts those that were begun twice.
        found_unlike = [line for line in unlike(state, ended) if "/val_loop." not in line]
        faults += [f"{name}: {line}" for line in found_unlike]
        shutil.rmtree(run)
    result = {
        "seconds that each lasts": {name: round(value, 3) for name, value in lasts.items()},
        "kills": dict(table),
        "gone on from": dict(origins),
        "parts left by kills": parts,
        "runs": runs,
        "values compared per run": len(wanted),
        "faults": faults,
    }
    sys.stdout.write(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
