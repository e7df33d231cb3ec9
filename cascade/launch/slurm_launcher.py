"""Trains each run as a Slurm job, by submitit: `hydra/launcher=slurm`."""

import contextlib
import json
import logging
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import hydra_plugins.hydra_submitit_launcher.submitit_launcher as submitit_launcher
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus, setup_globals
from omegaconf import OmegaConf, open_dict
from submitit.core.utils import FailedJobError

from cascade.bundle import final_loss
from cascade.checkpoint.run_config import (
    ConfigChangedError,
    check_config,
    fixed_part,
    refuse_change,
)
from cascade.files.atomic import write_atomic
from cascade.files.lock import locked
from cascade.launch.outcome import RESULTS, conclude, config_of, counted, done, failed
from cascade.launch.queue import ALIVE, Logs, states, wait
from cascade.launch.script import command, parameters

log = logging.getLogger(__name__)
#: Seconds to wait while another command submits the same run.
SUBMITTED_S = 600.0


@dataclass(frozen=True, kw_only=True)
class SlurmRun:
    """A run and the id of its Slurm job; None if the run is finished or was refused."""

    run: Path
    overrides: list[str]
    job: str | None
    refused: str | None = None
    config: dict[str, Any] | None = None

    @property
    def log(self) -> Path:
        """The first rank's log; those of the others are next to it."""
        return self.run / "slurm" / f"{self.job}_0_log.out"


class SlurmLauncher(submitit_launcher.SlurmLauncher):
    """Submits one job per run, unless the run has a job in the queue or is finished."""

    def __init__(
        self, *, cluster: Mapping[str, Any], follow: bool, wait: bool, poll_s: float
    ) -> None:
        super().__init__()
        if poll_s <= 0:
            raise ValueError(f"hydra.launcher.poll_s must be positive, got {poll_s:g}")
        self._cluster = cast(dict[str, Any], OmegaConf.to_container(cluster, resolve=True))
        self._follow, self._wait, self._poll_s = follow, wait, poll_s

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Submit the missing jobs; with `follow` or `wait`, wait for them.

        Raises:
            SystemExit: Slurm is missing, its queue does not answer, or two runs would share a
                folder; or a run failed or was refused, and no sweep of ours counts failures.
        """
        if shutil.which("sbatch") is None:
            raise SystemExit("error: sbatch is not on the PATH; run this on a login node")
        setup_globals()
        numbered = enumerate(map(list, job_overrides), start=initial_job_idx)
        runs = [self._planned(overrides, number) for number, overrides in numbered]
        for run, count in Counter(run for run, *_ in runs).items():
            if count > 1:
                raise SystemExit(
                    f"error: every run needs its own folder, but {count} runs would share {run}; "
                    "use `make sweep` for sweeps"
                )
        try:
            jobs = self._begin(runs)
        except (ValueError, OSError) as error:
            raise SystemExit(f"error: {error}") from error
        if not (self._follow or self._wait):
            return conclude([_submitted(job) for job in jobs], self.config)
        running = [job for job in jobs if job.job is not None]
        logs = Logs(job.log for job in running) if self._follow else None
        numbers = [str(job.job) for job in running]
        try:
            ended = wait(numbers, poll_s=self._poll_s, logs=logs)
        except KeyboardInterrupt as stop:
            raise SystemExit(
                f"the jobs keep running; to end them: scancel {' '.join(numbers)}"
            ) from stop
        task = self.config.hydra.job.name
        returns = [_outcome(job, ended.get(str(job.job), "COMPLETED"), task) for job in jobs]
        return conclude(returns, self.config)

    def _begin(
        self, runs: Sequence[tuple[Path, list[str], dict[str, Any] | None]]
    ) -> list[SlurmRun]:
        """Submit or find each run's job.

        If no sweeper of ours counts failures, all runs are checked before any is submitted.
        """
        refused = {run: why for run, _, config in runs if (why := _refusal(run, config))}
        if refused and not counted(self.config):
            raise SystemExit("\n".join(f"error: {why}" for why in refused.values()))
        return [
            SlurmRun(run=run, overrides=overrides, job=None, refused=refused[run])
            if run in refused
            else self._ensure(run, overrides, config)
            for run, overrides, config in runs
        ]

    def _ensure(self, run: Path, overrides: list[str], config: dict[str, Any] | None) -> SlurmRun:
        """The run's job: the one in the queue, or a new one, or a refusal with sbatch's error."""
        if done(run, config):
            log.info("already trained: %s/bundle", run)
            return SlurmRun(run=run, overrides=overrides, job=None, config=config)
        busy = (
            f"{run}: another command has been submitting this run for {SUBMITTED_S:g} s; wait for "
            "it or end it"
        )
        with locked(run / "slurm/.lock", busy=busy, wait_s=SUBMITTED_S):
            number, state = _last_job(run)
            if state in ALIVE:
                log.info("job %s already trains this run (%s): %s", number, state, run)
                return SlurmRun(run=run, overrides=overrides, job=number, config=config)
            try:
                number = self._submit(run, overrides)
                job = SlurmRun(run=run, overrides=overrides, job=number, config=config)
            except FailedJobError as error:
                reason = str(error).strip().rpartition("\n")[2].removeprefix("sbatch: error: ")
                why = (
                    f"{run}: sbatch refused: {reason}; check cluster.partition, cluster.account "
                    "and the other keys of conf/cluster"
                )
                return SlurmRun(run=run, overrides=overrides, job=None, refused=why)
            write_atomic(run / "slurm/job.json", json.dumps(job.job).encode())
            fixed = None if config is None else fixed_part(config)
            write_atomic(run / "slurm/config.json", json.dumps(fixed).encode())
        log.info("job %s: %s\n  log: %s", job.job, run, job.log)
        return job

    def _planned(
        self, overrides: list[str], number: int
    ) -> tuple[Path, list[str], dict[str, Any] | None]:
        """A run's folder, its overrides, and its config as its job will compose it."""
        config = self.hydra_context.config_loader.load_sweep_config(self.config, overrides)
        with open_dict(config.hydra.job):
            config.hydra.job.num = number
            config.hydra.job.id = str(number)
        HydraConfig.instance().set_config(config)
        run = Path(config.hydra.sweep.dir, config.hydra.sweep.subdir).absolute()
        return run, overrides, config_of(config)

    def _submit(self, run: Path, overrides: list[str]) -> str:
        from submitit.slurm.slurm import SlurmExecutor

        name, task = "/".join(run.parts[-3:]), self.config.hydra.job.name
        with _outside_a_job():
            executor = SlurmExecutor(folder=run / "slurm")
            executor.update_parameters(**parameters(self._cluster, run, name, task=task))
            job = executor._submit_command(command(self._cluster, run, overrides, task=task))
        return str(job.job_id)


def _last_job(run: Path) -> tuple[str | None, str | None]:
    """The run's last job and its state."""
    note = run / "slurm/job.json"
    if not note.exists():
        return None, None
    number = str(json.loads(note.read_bytes()))
    return number, states([number])[number]


def _refusal(run: Path, config: dict[str, Any] | None) -> str | None:
    """Why a run cannot train with this config: it has trained, or is queued, with another."""
    if config is None:
        return None
    submitted = run / "slurm/config.json"
    try:
        check_config(run, config)
        if submitted.exists() and _last_job(run)[1] in ALIVE:
            fixed = fixed_part(config)
            refuse_change(run, json.loads(submitted.read_bytes()) or fixed, fixed)
    except ConfigChangedError as error:
        return str(error)
    return None


def _submitted(job: SlurmRun) -> JobReturn:
    """The result of a job that was only submitted: no metrics; of a refused one: failed."""
    if job.refused:
        log.error("%s", job.refused)
        return failed(job.overrides, job.refused)
    return JobReturn(overrides=job.overrides, status=JobStatus.COMPLETED)


def _outcome(job: SlurmRun, state: str, task: str) -> JobReturn:
    """The result of a job that has ended: the validation loss, or the job's final state."""
    if job.refused:
        return _submitted(job)
    result = JobReturn(overrides=job.overrides, status=JobStatus.COMPLETED)
    if task not in RESULTS and state == "COMPLETED":
        log.info("%s: finished", job.run)
    elif done(job.run, job.config):
        result.return_value = final_loss(job.run)
        log.info("%s: trained", job.run)
    else:
        why = f"{job.run}: job {job.job} ended {state}; see {job.log}"
        log.error("%s", why)
        return failed(job.overrides, why)
    return result


@contextlib.contextmanager
def _outside_a_job() -> Iterator[None]:
    """Inside, the variables of a Slurm job that this command runs in are hidden from sbatch."""
    hidden = {
        name: os.environ.pop(name)
        for name in list(os.environ)
        if name.startswith(("SLURM_", "SLURMD_", "SRUN_", "SBATCH_")) and name != "SLURM_CONF"
    }
    try:
        yield
    finally:
        os.environ.update(hidden)
