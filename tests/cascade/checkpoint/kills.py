"""Compares a small run that is killed at random moments with an uninterrupted one: a script.

    python tests/cascade/checkpoint/kills.py FOLDER [--kills 100] [--seed 0] [--log-every 5]

It is killed by SIGKILL a random time after it started a step, a save, a validation, its start or
its end; the first time in its last validation. All logged values, the last checkpoint and the
snapshots of the averages must be bit-identical to those of the uninterrupted run.
"""

import argparse
import json
import os
import random
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import torch

from cascade.checkpoint.checkpoint_folder import folder_of, folders, newest
from data.worlds.world_shards import make_shapes
from tests.cascade.checkpoint.legs import MOMENTS, Doing, rows, run_of, start, unlike

STEPS, VALIDATE = 24, 4
OVERRIDES = (
    *(f"shrink.steps={STEPS}", "callbacks.checkpoint.every_n_steps=3"),
    *("callbacks.samples.every_n_steps=9", f"trainer.val_check_interval={VALIDATE}"),
    "callbacks.ema.snapshot_every=5",
)


def durations(child: int, doing: Doing) -> dict[str, float]:
    """Follow a leg to its end; returns the mean duration in seconds of each thing that it does."""
    spent, before = dict.fromkeys(MOMENTS, 0.0), time.monotonic()
    while not (ended := os.waitpid(child, os.WNOHANG))[0]:
        time.sleep(0.0005)
        now = time.monotonic()
        spent[doing.now] += now - before
        before = now
    assert ended[1] == 0
    return {name: spent[name] / max(1, doing.times(name)) for name in MOMENTS}


def snapshots(run: Path) -> dict[str, bytes]:
    """The files of the averages' snapshots."""
    return {path.name: path.read_bytes() for path in (run / "ema").iterdir()}


def drawn(draw: random.Random) -> tuple[str, int]:
    """A random moment for a kill: what the leg does then, and its how-manieth occurrence."""
    moment = draw.choices(list(MOMENTS), weights=list(MOMENTS.values()))[0]
    return moment, draw.randint(1, 3) if moment in ("step", "save", "validation") else 1


def killed(
    child: int, doing: Doing, at: tuple[str, int], draw: random.Random, lasts: Mapping[str, float]
) -> str | None:
    """Kill a leg at a moment; returns what it was doing, or None if it had ended by itself."""
    moment, nth = at
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


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--log-every", type=int, default=5, help="steps; 5 divides no leg")
    given = parser.parse_args()
    overrides = (*OVERRIDES, f"trainer.log_every_n_steps={given.log_every}")
    folder: Path = given.folder.resolve()
    draw, doing = random.Random(given.seed), Doing()
    make_shapes(folder / "shards", clips=24, shard_size=24)
    lasts = durations(start(folder, "whole", *overrides, doing=doing), doing)
    whole = run_of(folder, "whole")
    wanted = rows(whole)
    state = torch.load(folder_of(whole, STEPS) / "state", weights_only=True)
    assert all(len(values) == 1 for values in wanted.values())

    table, origins, faults, parts, runs = Counter(), Counter(), [], 0, 0
    while sum(table.values()) < given.kills:
        name, runs = f"killed{runs}", runs + 1
        run = run_of(folder, name)
        while True:
            last = sum(table.values()) >= given.kills
            child = start(folder, name, *overrides, doing=doing)
            at = drawn(draw) if sum(table.values()) else ("validation", STEPS // VALIDATE)
            now = None if last else killed(child, doing, at, draw, lasts)
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
        faults += [f"{name}: other snapshots"] if snapshots(run) != snapshots(whole) else []
        ended = torch.load(folder_of(run, STEPS) / "state", weights_only=True)
        # The counter of started validation batches includes validations that were repeated.
        found_unlike = [line for line in unlike(state, ended) if "val_loop." not in line]
        faults += [f"{name}: {line}" for line in found_unlike]
        shutil.rmtree(run)
    result = {
        "seconds that each lasts": {name: round(value, 3) for name, value in lasts.items()},
        "kills": dict(table),
        "resumed from": dict(origins),
        "parts left by kills": parts,
        "runs": runs,
        "values compared per run": len(wanted),
        "faults": faults,
    }
    sys.stdout.write(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
