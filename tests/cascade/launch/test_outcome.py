"""What launchers refuse, and the messages with which a command ends after failed runs."""

import json
import os

import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobStatus
from hydra.types import HydraContext, RunMode

from cascade.checkpoint.run_config import fixed_part
from cascade.entry import CONF
from cascade.launch import queue
from cascade.launch.local_launcher import LocalLauncher, planned
from cascade.launch.outcome import config_of
from cascade.launch.queue import Logs
from cascade.launch.slurm_launcher import SlurmLauncher


@pytest.fixture
def setting(tmp_path):
    """Composes a command line for many runs: Hydra's context, and the config of them all."""
    before = HydraConfig.instance().cfg
    with initialize_config_dir(version_base="1.3", config_dir=CONF):
        loader = GlobalHydra.instance().hydra.config_loader

        def compose(*overrides):
            given = ["hydra.job.name=train", *overrides]
            config = loader.load_configuration("train", given, run_mode=RunMode.MULTIRUN)
            HydraConfig.instance().set_config(config)
            return HydraContext(config_loader=loader, callbacks=None), config

        compose.overrides = lambda home, *more: [
            *("stage=demo/base", f"paths.runs={home}/runs", "name=a", *more)
        ]
        yield compose
    HydraConfig.instance().cfg = before


def trained(tmp_path, setting, *overrides):
    """The folder of a finished run."""
    context, config = setting()
    given = setting.overrides(tmp_path, *overrides)
    run = planned(context, config, given).folder
    composed = context.config_loader.load_sweep_config(config, given)
    HydraConfig.instance().set_config(composed)
    (run / "bundle").mkdir(parents=True)
    (run / "bundle/card.json").write_text('{"figures": {"val/loss": 0.5}}')
    (run / "config.json").write_text(json.dumps(fixed_part(config_of(composed))))
    return run


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """A Slurm with the answers that a test sets: cluster(squeue="FAILED", sbatch="no")."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    for name in [name for name in os.environ if name.startswith("SLURM_")]:
        monkeypatch.delenv(name)

    def answer(*, squeue, sbatch=None):
        asked = tmp_path / "asked"
        asked.unlink(missing_ok=True)
        no = "" if sbatch is None else f"echo 'sbatch: error: {sbatch}' >&2; exit 1\n"
        for name, lines in {
            "sbatch": f"touch {asked}\n{no}echo Submitted batch job 7\n",
            "squeue": f"echo {squeue}\n",
        }.items():
            path = tmp_path / "bin" / name
            path.write_text(f"#!/bin/sh\n{lines}")
            path.chmod(0o755)
        return asked

    return answer


def slurm(tmp_path, setting, *batch, follow=False, sweeper=()):
    context, config = setting("cluster=slurm", "hydra/launcher=slurm", *sweeper)
    launcher = SlurmLauncher(
        cluster=config.hydra.launcher.cluster, follow=follow, wait=False, poll_s=0.01
    )
    launcher.setup(hydra_context=context, task_function=print, config=config)
    runs = [setting.overrides(tmp_path, *given) for given in batch]
    return launcher.launch(runs, initial_job_idx=0)


def test_a_sweep_called_again_with_another_value_counts_the_finished_run_as_failed(
    tmp_path, setting
):
    trained(tmp_path, setting)
    for given, status in (["seed=1"], JobStatus.FAILED), ([], JobStatus.COMPLETED):
        context, config = setting("hydra/sweeper=grid", "hydra/launcher=local")
        launcher = LocalLauncher(jobs=1)
        launcher.setup(hydra_context=context, task_function=print, config=config)
        (ended,) = launcher.launch([setting.overrides(tmp_path, *given)], initial_job_idx=0)
        assert ended.status is status
        if status is JobStatus.FAILED:
            with pytest.raises(RuntimeError, match=r"another config.*:\n  stage.train.seed: 0 → 1"):
                _ = ended.return_value
        else:
            assert ended.return_value == 0.5


def test_a_changed_config_is_refused_before_anything_is_submitted(tmp_path, setting, cluster):
    run = trained(tmp_path, setting)
    asked = cluster(squeue="PENDING")
    with pytest.raises(SystemExit, match=r"^error: .*another config.*:\n  stage.train.seed: 0"):
        slurm(tmp_path, setting, ["seed=1"])
    (run / "bundle").rename(tmp_path / "elsewhere")
    (run / "checkpoints/00000005").mkdir(parents=True)
    (run / "checkpoints/00000005/manifest.json").write_text("{}")
    with pytest.raises(SystemExit, match="seed: 0 → 1"):  # all are checked before any is submitted
        slurm(tmp_path, setting, ["name=b"], ["seed=1"])
    assert not asked.exists()
    slurm(tmp_path, setting, ["name=c"])
    assert asked.exists()
    asked = cluster(squeue="PENDING")
    slurm(tmp_path, setting, ["name=c"], sweeper=["hydra/sweeper=grid"])  # finds its job
    with pytest.raises(SystemExit, match="seed: 0 → 1"):
        slurm(tmp_path, setting, ["name=c", "seed=1"])
    (ended,) = slurm(tmp_path, setting, ["name=c", "seed=1"], sweeper=["hydra/sweeper=grid"])
    assert ended.status is JobStatus.FAILED
    assert not asked.exists()


def test_a_failure_on_a_cluster_ends_in_one_line(tmp_path, setting, cluster):
    cluster(squeue="FAILED")
    with pytest.raises(SystemExit, match=r"^error: \S+: job 7 ended FAILED; see \S+_log.out$"):
        slurm(tmp_path, setting, [], follow=True)
    cluster(squeue="FAILED", sbatch="Batch job submission failed: Invalid partition name specified")
    refusal = r"^error: \S+/a: sbatch refused: Batch .*Invalid partition.*; check cluster.partition"
    with pytest.raises(SystemExit, match=refusal):
        slurm(tmp_path, setting, [])
    with pytest.raises(SystemExit, match="^error: cluster: minutes must exceed notice_s"):
        slurm(tmp_path, setting, ["name=b"], sweeper=["cluster.minutes=1"])


def test_the_lines_of_several_logs_start_with_their_run(tmp_path, capfdbinary):
    paths = [tmp_path / stage / "default/slurm/7_0_log.out" for stage in ("base", "tsr1")]
    for path in paths:
        path.parent.mkdir(parents=True)
        path.write_text("one\nhal")
    logs = Logs(paths)
    logs.show()
    paths[0].write_text("one\nhalf\n")
    logs.show(last=True)
    lines = capfdbinary.readouterr().out.decode().splitlines()
    assert lines == [
        *("base/default: one", "tsr1/default: one", "base/default: half", "tsr1/default: hal")
    ]
    Logs(paths[:1]).show()
    assert capfdbinary.readouterr().out == b"one\nhalf\n"


def test_a_job_of_a_lost_node_has_time_to_be_requeued_before_it_counts_as_ended(
    tmp_path, cluster, monkeypatch
):
    now, later = tmp_path / "now", tmp_path / "later"
    cluster(squeue=f"PENDING >{later}; cat {now}; mv {later} {now}")
    now.write_text("NODE_FAIL")
    assert queue.states(["7"]) == {"7": "PENDING"}
    cluster(squeue="NODE_FAIL")
    monkeypatch.setattr(queue, "SETTLES_S", 0.6)
    assert queue.states(["7"]) == {"7": "NODE_FAIL"}
