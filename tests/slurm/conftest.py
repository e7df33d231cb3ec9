"""A real Slurm with two nodes, and small runs on it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cascade.curves import read_curves
from cascade.launch.queue import ALIVE, states
from data.worlds.world_shards import make_shapes

#: A command that brings a crashed node back, given the folder of the cluster's state.
UP = os.environ.get("CASCADE_SLURM_UP")


@pytest.fixture(scope="session")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    make_shapes(folder, clips=24, shard_size=12)
    return folder


class Runs:
    """Runs in one folder, submitted by the command that a user would type."""

    def __init__(self, folder, shards, cluster):
        self.folder, self.shards, self.cluster = folder, shards, cluster

    def submit(self, name, *overrides, steps=40, module="cascade.train", check=True):
        """Submit a run; returns the command's output."""
        command = [
            *(sys.executable, "-m", module, "--multirun", "hydra/launcher=slurm", "cluster=slurm"),
            *("cluster.gpus=0", "cluster.cpus=1", "cluster.minutes=20", "trainer=cpu2"),
            *("stage=demo/base", "debug=smoke", f"name={name}", f"paths.runs={self.folder}"),
            *(f"data.shards={self.shards}", "data.make=null", "logger=csv"),
            *("trainer.enable_progress_bar=false", f"shrink.steps={steps}", "shrink.batch=4"),
            *(f"trainer.val_check_interval={steps}", "callbacks.samples.every_n_steps=1000"),
            *("callbacks.checkpoint.every_n_steps=5", *overrides),
        ]
        path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
        env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=600)
        output = done.stdout + done.stderr
        assert not check or done.returncode == 0, output[-3000:]
        return output

    def run(self, name):
        return self.folder / "demo/base" / name

    def job(self, name):
        return json.loads(self.run(name).joinpath("slurm/job.json").read_bytes())

    def saved(self, name):
        """The newest step."""
        steps = [int(path.name) for path in self.run(name).glob("checkpoints/0*")]
        return max(steps, default=0)

    def log(self, name):
        """The first rank's log, of all restarts of the job."""
        paths = sorted(self.run(name).glob(f"slurm/{self.job(name)}_0_log.out"))
        return "".join(path.read_text() for path in paths)

    def until_trained(self, name, timeout_s=900.0):
        self.until(lambda: self.state(name) not in ALIVE, timeout_s=timeout_s)
        assert self.state(name) == "COMPLETED", self.log(name)[-4000:]
        assert self.run(name).joinpath("bundle").is_dir()

    def losses(self, name):
        """The losses of all logged steps."""
        try:
            return read_curves(self.run(name))["train/loss"]
        except (KeyError, FileNotFoundError, ValueError):
            return []

    def state(self, name):
        job = self.job(name)
        return states([job])[job]

    def legs(self, name):
        """How often its job was requeued."""
        shown = subprocess.run(
            ["scontrol", "show", "job", self.job(name)], capture_output=True, text=True, check=True
        ).stdout
        return int(shown.partition("Restarts=")[2].split()[0])

    @staticmethod
    def until(found, *, timeout_s=600.0):
        """Wait until `found` returns something true; returns it."""
        end = time.monotonic() + timeout_s
        while not (got := found()):
            assert time.monotonic() < end, f"no result within {timeout_s:g} s"
            time.sleep(0.1)
        return got

    @staticmethod
    def preempt():
        """Run a job in the higher partition that needs the resources of the lower one's jobs."""
        command = ["sbatch", "--parsable", "--wait", "--partition=main", "--nodes=2", "--time=1"]
        resources = ["--ntasks-per-node=7", "--output=/dev/null", "--wrap", "sleep 0.5"]
        subprocess.run([*command, *resources], capture_output=True, check=True, timeout=600)

    def crash(self, node):
        """Kill all processes of a node at once; Slurm notices it later than the other ranks."""
        pids = self.cluster / "run" / node
        if not (UP and pids.exists()):
            pytest.skip("the nodes of this cluster cannot be crashed")
        os.kill(int(pids.read_text().split()[0]), signal.SIGKILL)
        time.sleep(15)
        self.until(lambda: subprocess.run([UP, self.cluster], capture_output=True).returncode == 0)


@pytest.fixture(scope="module")
def runs(tmp_path_factory, shards, cluster):
    made = Runs(tmp_path_factory.mktemp("runs"), shards, cluster)
    yield made
    for path in made.folder.rglob("slurm/job.json"):
        subprocess.run(["scancel", "--quiet", json.loads(path.read_bytes())], check=False)
