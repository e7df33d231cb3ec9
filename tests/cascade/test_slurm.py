"""What is asked of a run inside a job, without a cluster: signals, ends, legs, hangs, scripts."""

import inspect
import json
import os
import signal
import subprocess
import sys
import time

import pytest
import pytorch_lightning as pl
from hydra import compose, initialize_config_dir
from submitit.slurm.slurm import _make_sbatch_string

from cascade import slurm
from cascade.callbacks.interrupt import Interrupt
from cascade.entry import CONF
from cascade.job import StuckError, count_legs
from cascade.launch.script import command, parameters
from cascade.launch.slurm_launcher import SlurmLauncher

CLUSTER = {
    **{"partition": "p", "account": None, "qos": None, "constraint": None, "setup": ["module x"]},
    **{"container": "box run", "python": "py", "parameters": {}, "nodes": 2, "gpus": 4},
    **{"ranks": None, "cpus": 8, "memory_gb": 64, "minutes": 60, "notice_s": 90, "stuck": 5},
}


@pytest.mark.parametrize(
    ("left", "seconds"),
    [("1-02:03:04", 93784), ("02:03", 123), ("5", 5), ("UNLIMITED", None), ("NOT_SET", None)],
)
def test_the_time_left_is_read_as_squeue_writes_it(left, seconds):
    found = slurm._seconds(left)
    assert found is None if seconds is None else abs(found - time.time() - seconds) < 2


def test_a_job_without_new_checkpoints_ends_and_one_with_them_does_not(tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    for step in (0, 0, 10, 10, 10):
        (tmp_path / "checkpoints" / f"{step:08d}").mkdir(parents=True, exist_ok=True)
        count_legs(tmp_path, 3)
    with pytest.raises(StuckError, match="job 7 started 3 times at step 10"):
        count_legs(tmp_path, 3)
    assert json.loads((tmp_path / "slurm/7.legs.json").read_bytes()) == [0, 0, 10, 10, 10, 10]
    monkeypatch.setenv("SLURM_JOB_ID", "8")
    count_legs(tmp_path, 3)  # another job counts from zero


def test_a_script_requests_what_the_cluster_file_sets(tmp_path):
    asked = parameters(CLUSTER, tmp_path / "a b", "demo/base/x")
    assert (asked["nodes"], asked["ntasks_per_node"], asked["gpus_per_node"]) == (2, 4, 4)
    assert asked["mem"] == "64G"
    assert "account" not in asked
    assert asked["setup"][0] == "module x"
    shown = {**CLUSTER, "container": "printf '%s\\n'"}
    line = command(shown, tmp_path / "a b", ["stage=demo/base", "name='x y'"])
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        *("py", "-u", "-m", "cascade.job"),
        *(str(tmp_path / "a b"), "5", "stage=demo/base", "name='x y'", "hydra.mode=RUN"),
        *(f"hydra.run.dir='{tmp_path}/a b'", "++trainer.devices=4", "++trainer.num_nodes=2"),
    ]


def test_a_cluster_file_sets_all_that_a_job_requests(tmp_path):
    with initialize_config_dir(version_base="1.3", config_dir=CONF):
        overrides = ["cluster=slurm", "hydra/launcher=slurm", "logger=[]"]
        config = compose("train", overrides=overrides, return_hydra_config=True)
        launcher = {k: v for k, v in config.hydra.launcher.items() if not k.startswith("_")}
        asked = parameters(launcher["cluster"], tmp_path, "x")
        inspect.signature(SlurmLauncher).bind(**launcher)
    assert asked.keys() <= inspect.signature(_make_sbatch_string).parameters.keys()
    with pytest.raises(
        ValueError, match="minutes must exceed notice_s plus 60 s.* 3 minutes .* 120 s"
    ):
        parameters({**CLUSTER, "minutes": 3, "notice_s": 120}, tmp_path, "x")


QUEUE = """#!/bin/bash
echo "$(basename "$0") $*" >> {folder}/asked
case $0 in *squeue) echo {state};; *scontrol) exit {code};; *sleep) exit 0;; esac
"""


@pytest.mark.parametrize(
    ("left", "state", "code", "requeued", "status"),
    [
        ("", "RUNNING", 3, False, 3),  # a run's own failure
        ("", "RUNNING", 0, False, 0),
        (".again", "RUNNING", 0, True, 1),  # (a real Slurm kills it while it sleeps)
        (".again", "COMPLETING", 0, False, 0),  # cancelled, or requeued by Slurm
        (".again .again.not", "RUNNING", 1, False, 1),  # one rank lost another, which had failed
        ("stacks", "RUNNING", 137, True, 1),  # a rank that hung
    ],
)
def test_a_script_requeues_its_job_if_the_run_requests_it(
    tmp_path, left, state, code, requeued, status
):
    run, bin_ = tmp_path / "run", tmp_path / "bin"
    for folder in (run / "slurm", run / "stacks", bin_):
        folder.mkdir(parents=True)
    for name in ("squeue", "scontrol", "sleep"):
        (bin_ / name).write_text(QUEUE.format(folder=tmp_path, state=state, code=0))
        (bin_ / name).chmod(0o755)
    asked = parameters({**CLUSTER, "setup": []}, run, "x")
    leaves = [f"touch {run}/slurm/7{name}" for name in left.split() if name != "stacks"]
    if left == "stacks":
        leaves = [f"echo stuck > {run}/stacks/7-2-rank0.txt"]
    script = [*asked["setup"], *leaves, f"(exit {code})", *asked["teardown"]]
    env = {**os.environ, "PATH": f"{bin_}:{os.environ['PATH']}"}
    env |= {"SLURM_JOB_ID": "7", "SLURM_RESTART_COUNT": "2"}
    done = subprocess.run(["bash", "-c", "\n".join(script)], env=env, capture_output=True)
    assert done.returncode == status
    commands = (tmp_path / "asked").read_text() if (tmp_path / "asked").exists() else ""
    assert ("scontrol requeue 7" in commands) is requeued


HELD = """
import os, signal, subprocess, sys, time
from cascade.slurm import stop
stop.nothing_to_lose = lambda: {nothing}
stop.handle_signals()
child = subprocess.Popen([sys.executable, "-c", "print(input())"], stdin=-1, stdout=-1)
child.send_signal(signal.SIGTERM)  # Slurm sends signals to all processes of a job
os.kill(os.getpid(), signal.{signal})
time.sleep(1)
print(stop.why, child.communicate(b"lives")[0].decode().strip())
"""


@pytest.mark.parametrize(
    ("nothing", "output", "status"), [(True, "", slurm.AGAIN_STATUS), (False, "SIGUSR2 lives", 0)]
)
def test_a_signal_sets_a_flag_and_ends_only_a_process_with_nothing_to_lose(
    tmp_path, nothing, output, status
):
    env = {**os.environ, slurm.AGAIN: str(tmp_path / "again")}
    program = HELD.format(nothing=nothing, signal="SIGUSR2")
    done = subprocess.run(
        [sys.executable, "-c", program], env=env, capture_output=True, text=True, timeout=60
    )
    assert (done.stdout.strip(), done.returncode) == (output, status)
    assert (tmp_path / "again").exists() is nothing


HANG = """
import ctypes, sys, time
from types import SimpleNamespace
from cascade.callbacks.watchdog import Watchdog
watch = Watchdog(hang_s=0.5, others_s=0.2)
trainer = SimpleNamespace(default_root_dir=sys.argv[1], global_rank=0, global_step=3)
watch.setup(trainer, SimpleNamespace(name="base"), "fit")
for _ in range(10):
    watch.on_train_batch_start(trainer)
    time.sleep(0.1)
print("alive", flush=True)
{hang}
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("hang", "status"),
    [
        ("time.sleep(60)", slurm.AGAIN_STATUS),
        ("ctypes.PyDLL(None).sleep(60)", 1),  # no Python thread runs while C holds the lock
    ],
)
def test_a_process_that_hangs_writes_its_stacks_and_ends(tmp_path, hang, status):
    env = {**os.environ, "SLURM_JOB_ID": "7", "SLURM_RESTART_COUNT": "2"}
    program = [sys.executable, "-c", HANG.format(hang=hang), str(tmp_path)]
    done = subprocess.run(program, env=env, capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.returncode) == ("alive\n", status)
    assert 'File "<string>", line 12' in (tmp_path / "stacks/7-2-rank0.txt").read_text()


class Saves(pl.Callback):
    def __init__(self, save_s):
        self.save_s = save_s


class Fit(pl.Trainer):
    """A trainer at a step, with a callback that saves."""

    global_step, max_steps, world_size = 0, 100, 1
    is_global_zero, should_stop, limit_val_batches = True, False, 1.0
    callbacks = ()

    def __init__(self, step, save_s):
        self.global_step, self.callbacks = step, [Saves(save_s)]


@pytest.mark.parametrize(("left_s", "save_s", "stops"), [(60, 10, False), (30, 10, True)])
def test_a_run_stops_in_time_to_save_before_its_job_ends(monkeypatch, left_s, save_s, stops):
    stop = slurm.Stop()
    stop.handles_signals = True
    monkeypatch.setattr(slurm, "stop", stop)
    end = time.time() + left_s
    monkeypatch.setattr(slurm, "ends_at", lambda: end)
    interrupt, fit = Interrupt(spare_s=20), Fit(0, save_s)
    interrupt.on_train_start(fit, pl.LightningModule())
    fit.global_step = 1
    interrupt.on_train_batch_end(fit)
    assert fit.should_stop is stops
    assert ("the job ends in" in (stop.why or "")) is stops


def test_a_stop_waits_until_the_step_is_complete(monkeypatch):
    monkeypatch.setattr(slurm, "stop", slurm.Stop())
    interrupt, fit = Interrupt(), Fit(4, 1)
    before = signal.getsignal(signal.SIGTERM)
    interrupt.on_train_start(fit, pl.LightningModule())
    signal.raise_signal(signal.SIGTERM)
    interrupt.on_train_batch_end(fit)  # a micro batch ended, but no optimizer step
    assert not fit.should_stop
    fit.global_step = 5
    interrupt.on_train_batch_end(fit)
    assert fit.should_stop
    assert fit.limit_val_batches == 0
    interrupt.on_train_end()
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_run_that_fails_restores_the_signal_handlers(monkeypatch):
    monkeypatch.setattr(slurm, "stop", slurm.Stop())
    interrupt, fit = Interrupt(), Fit(4, 1)
    before = signal.getsignal(signal.SIGINT)
    interrupt.on_train_start(fit, pl.LightningModule())
    assert signal.getsignal(signal.SIGINT) is not before
    interrupt.on_exception(fit, pl.LightningModule(), ValueError("a mistake"))
    assert signal.getsignal(signal.SIGINT) is before
