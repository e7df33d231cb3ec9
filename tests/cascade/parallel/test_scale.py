"""Real runs on one process and on two, sharded, started in every way: the same numbers.

CASCADE_SCALE_STEPS (8 in the suite) makes them longer, and adds what the suite has no time for: two
nodes by torchrun, and a leg without any sharding.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from lightning_fabric.plugins.environments.lightning import find_free_network_port
from safetensors.torch import load_file

from cascade.bundle import load_stage
from cascade.checkpoint.checkpoint_folder import manifests
from cascade.curves import read_curves
from data.worlds.world_shards import make_shapes

LONG = "CASCADE_SCALE_STEPS" in os.environ
STEPS = int(os.environ.get("CASCADE_SCALE_STEPS", "8"))
SHARDED = ("trainer=fsdp", "trainer.accelerator=cpu", "trainer.precision=32-true")
ONE_STEP = "callbacks.interrupt.leg_s=1e-3"
ENV = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scale")
    make_shapes(folder / "shards", clips=24, shard_size=12)
    return folder


def overrides(folder: Path, name: str, *more: str) -> list[str]:
    return [
        *("-m", "cascade.train", "stage=demo/base", "debug=smoke", f"name={name}"),
        *(f"paths.runs={folder}", f"data.shards={folder}/shards", "data.make=null", "logger=csv"),
        *("trainer.enable_progress_bar=false", f"shrink.steps={STEPS}", "shrink.batch=4"),
        *(f"trainer.val_check_interval={STEPS}", f"callbacks.samples.every_n_steps={STEPS}", *more),
    ]


def run(folder: Path, name: str, *more: str) -> Path:
    command = [sys.executable, *overrides(folder, name, *more)]
    done = subprocess.run(command, env=ENV, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return folder / "demo/base" / name


def run_nodes(folder: Path, name: str, *more: str) -> Path:
    """Two nodes of one rank each, all on this machine, as torchrun starts them."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1"]
    place = f"localhost:{find_free_network_port()}"
    meet = ["--rdzv-backend=c10d", f"--rdzv-endpoint={place}", f"--rdzv-id={name}"]
    nodes = [
        subprocess.Popen(
            [*torchrun, *meet, f"--node-rank={rank}", *overrides(folder, name, *more)],
            env=ENV,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    said = [node.communicate(timeout=600)[0] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], "\n\n".join(s[-3000:] for s in said)
    return folder / "demo/base" / name


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "bundle/model.safetensors")


def worlds(run: Path) -> dict[int, tuple[int, str]]:
    return {one.step: (one.world, one.strategy) for one in manifests(run)}


@pytest.mark.slow
def test_sharded_runs_of_any_shape_equal_one_process(folder):
    one = run(folder, "one")
    keep_all = "callbacks.checkpoint.keep.every=1"
    parts = (*SHARDED, keep_all, "trainer.devices=1")
    two = (*SHARDED, keep_all, "trainer.devices=2")
    expected_worlds = [(2, "FSDP2"), (1, "FSDP2"), (2, "FSDP2")]
    if LONG:
        run_nodes(folder, "parts", *parts, ONE_STEP)
    else:
        run(folder, "parts", *two, ONE_STEP)
    run(folder, "parts", *parts, ONE_STEP)
    if LONG:
        expected_worlds.insert(2, (1, "SingleDeviceStrategy"))
        run(folder, "parts", keep_all, ONE_STEP)
    shaped = run(folder, "parts", *two)
    assert [worlds(shaped)[s] for s in (*range(1, len(expected_worlds)), STEPS)] == expected_worlds
    expected, found = (read_curves(r)["train/loss"] for r in (one, shaped))
    assert [step for step, _ in found] == list(range(STEPS)) == [step for step, _ in expected]
    assert max(abs(a - b) for (_, a), (_, b) in zip(expected, found, strict=True)) < 1e-5
    for name, value in weights(one).items():
        torch.testing.assert_close(weights(shaped)[name], value, rtol=1e-3, atol=1e-4)
    stage = load_stage(shaped / "bundle")
    assert stage.sample(["a red circle"], grid=stage.target, seeds=[0], steps=2).isfinite().all()
    assert len(list(shaped.glob(f"samples/{STEPS:08d}/*.mp4"))) > 0
