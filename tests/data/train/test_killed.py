"""A run killed at any moment goes on with the samples it would have had, on any number of ranks."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.data.train.killed_run import module

SCRIPT = Path(__file__).with_name("killed_run.py")
KILLS = int(os.environ.get("CASCADE_KILLS", "2"))
STEPS = 200


@pytest.mark.slow
def test_the_sequence_of_keys_goes_on_after_sigkill(write_shard, make_clips, tmp_path):
    shards = tmp_path / "shards"
    write_shard(shards / "0.tar", make_clips(40))
    write_shard(shards / "1.tar", make_clips(20, first=40, frames=2))
    write_shard(shards / "2.tar", make_clips(15, first=60, height=24, width=64))
    run, draw = tmp_path / "run", random.Random(0)
    run.mkdir()
    unbroken = module(str(shards), workers=0)
    unbroken.prepare_data()
    expected = [batch["key"] for batch in unbroken.train_loader(first=0, count=STEPS)]
    assert len({len(keys) for keys in expected}) > 1
    killed, worlds = 0, []
    while killed < KILLS:
        world = draw.choice([2, 2, 2, 1, 4])
        reached = max((r[0] for r in records(run)), default=-1)
        process = start(shards, run, world)
        wait_for(lambda reached=reached: any(r[0] > reached + 1 for r in records(run)), process)
        time.sleep(draw.uniform(0, 0.4))
        if process.poll() is not None:
            break
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        killed += 1
        worlds.append(world)
    steps = max(r[0] for r in records(run)) + 3
    assert start(shards, run, 2, steps).wait(timeout=120) == 0
    seen: dict[tuple[int, int], dict[int, list[str]]] = {}
    for step, world, rank, keys in records(run):
        before = seen.setdefault((step, world), {}).setdefault(rank, keys)
        assert before == keys
    whole = 0
    for (step, world), ranks in seen.items():
        each = len(expected[step]) // world
        for rank, keys in ranks.items():
            assert keys == expected[step][rank * each : (rank + 1) * each]
        whole += len(ranks) == world
    assert {step for step, _ in seen} == set(range(steps))
    assert whole >= steps
    sys.stdout.write(f"{killed} kills on {worlds} ranks; {steps} steps, each with its keys\n")


def start(shards, run, world, steps=STEPS):
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), str(shards), str(run), str(world), str(steps)],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def records(run):
    lines = [line for path in run.glob("keys-*.jsonl") for line in path.read_text().splitlines()]
    found = []
    for line in lines:
        try:
            found.append(json.loads(line))
        except ValueError:
            continue  # cut short by a kill
    return found


def wait_for(condition, process, limit=120):
    end = time.monotonic() + limit
    while not condition() and process.poll() is None:
        assert time.monotonic() < end
        time.sleep(0.05)
