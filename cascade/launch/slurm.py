"""Runs as Slurm jobs, one each, by submitit: `hydra/launcher=slurm`."""

import contextlib
import fcntl
import json
import logging
import math
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hydra_plugins.hydra_submitit_launcher.submitit_launcher as submitit_launcher
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus, setup_globals
from omegaconf import OmegaConf, open_dict

from cascade.bundle import read_card
from cascade.launch.queue import ALIVE, Logs, states, wait
from cascade.launch.script import command, parameters
from cascade.whole import write_whole

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Job:
    """A run, and the job that trains it; none where it is trained."""

    run: Path
    overrides: list[str]
    job: str | None

    @property
    def log(self) -> Path:
        """What the first rank says; the others' are beside it."""
        return self.run / "slurm" / f"{self.job}_0_log.out"


class SlurmLauncher(submitit_launcher.SlurmLauncher):  # type: ignore[misc]  # it has no types
    """One job per run; a run that waits or runs already is joined, a trained one is left."""

    def __init__(
        self, *, cluster: Mapping[str, Any], follow: bool, wait: bool, poll_s: float
    ) -> None:
        super().__init__()
        if poll_s <= 0:
            raise ValueError(f"hydra.launcher.poll_s must be positive, got {poll_s:g}")
        self._cluster: dict[str, Any] = OmegaConf.to_container(cluster, resolve=True)  # type: ignore[assignment]  # a mapping gives a dict
        self._follow, self._wait, self._poll_s = follow, wait, poll_s

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Submit what is missing; wait for it where that is asked for.

        Raises:
            SystemExit: there is no Slurm here, or two runs would share a folder.
        """
        if shutil.which("sbatch") is None:
            raise SystemExit("error: there is no sbatch on the PATH; run this on a login node")
        setup_globals()
        numbered = enumerate(map(list, job_overrides), start=initial_job_idx)
        runs = [(self._folder(overrides, number), overrides) for number, overrides in numbered]
        for run, count in Counter(run for run, _ in runs).items():
            if count > 1:
                raise SystemExit(
                    f"error: {count} runs would share {run}; sweeps are `make sweep`'s"
                )
        jobs = [self._ensure(run, overrides) for run, overrides in runs]
        if not (self._follow or self._wait):
            return [JobReturn(overrides=job.overrides, status=JobStatus.COMPLETED) for job in jobs]
        running = [job for job in jobs if job.job is not None]
        logs = Logs(job.log for job in running) if self._follow else None
        numbers = [str(job.job) for job in running]
        try:
            ended = wait(numbers, poll_s=self._poll_s, logs=logs)
        except KeyboardInterrupt as stop:
            raise SystemExit(f"the jobs go on; scancel {' '.join(numbers)} ends them") from stop
        return [_outcome(job, ended.get(str(job.job), "COMPLETED")) for job in jobs]

    def _ensure(self, run: Path, overrides: list[str]) -> Job:
        """The job of a run: the one that there is, or a new one."""
        if (run / "bundle").is_dir():
            log.info("already trained: %s/bundle", run)
            return Job(run=run, overrides=overrides, job=None)
        note = run / "slurm" / "job.json"
        with _alone(run / "slurm"):
            if note.exists():
                job = Job(run=run, overrides=overrides, job=str(json.loads(note.read_bytes())))
                state = states([str(job.job)])[str(job.job)]
                if state in ALIVE:
                    log.info("job %s has it already (%s): %s", job.job, state, run)
                    return job
            job = Job(run=run, overrides=overrides, job=self._submit(run, overrides))
            write_whole(note, json.dumps(job.job).encode())
        log.info("job %s: %s\n  log: %s", job.job, run, job.log)
        return job

    def _folder(self, overrides: list[str], number: int) -> Path:
        """Where a run lives."""
        config = self.hydra_context.config_loader.load_sweep_config(self.config, overrides)
        with open_dict(config.hydra.job):
            config.hydra.job.num = number
            config.hydra.job.id = str(number)
        HydraConfig.instance().set_config(config)
        return Path(config.hydra.sweep.dir, config.hydra.sweep.subdir).absolute()

    def _submit(self, run: Path, overrides: list[str]) -> str:
        from submitit.slurm.slurm import SlurmExecutor

        name = "/".join(run.parts[-3:])
        with _outside_a_job():
            executor = SlurmExecutor(folder=run / "slurm")
            executor.update_parameters(**parameters(self._cluster, run, name))
            job = executor._submit_command(command(self._cluster, run, overrides))
        return str(job.job_id)


def _outcome(job: Job, state: str) -> JobReturn:
    """A trained run's validation loss; else the state in which its job ended."""
    told = JobReturn(overrides=job.overrides, status=JobStatus.COMPLETED)
    if (job.run / "bundle").is_dir():
        figures = read_card(job.run / "bundle")["figures"]
        told.return_value = float(figures.get("val/loss", math.nan))
        log.info("%s: trained", job.run)
    else:
        told.status = JobStatus.FAILED
        told.return_value = RuntimeError(f"{job.run}: job {job.job} ended {state}; see {job.log}")
        log.error("%s", told._return_value)
    return told


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Inside, no other command submits the same run."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def _outside_a_job() -> Iterator[None]:
    """Inside, the environment does not tell sbatch of a job that this command may run in."""
    told = {
        name: os.environ.pop(name)
        for name in list(os.environ)
        if name.startswith(("SLURM_", "SLURMD_", "SRUN_", "SBATCH_")) and name != "SLURM_CONF"
    }
    try:
        yield
    finally:
        os.environ.update(told)
