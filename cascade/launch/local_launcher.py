"""Trains runs on this machine, each in its own process: `hydra/launcher=local`.

It runs the jobs of other commands too, such as the parts of a batch of samples. A run's process is
the command that trains that run alone, so that it can be stopped and resumed by
itself; its output goes to `output.log` in its folder. A failed run does not end the others.
"""

import contextlib
import logging
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import IO, Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus, configure_log, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from cascade.bundle import final_loss
from cascade.comparison.run_folder import last_error
from cascade.launch.outcome import (
    RESULTS,
    conclude,
    config_of,
    done,
    failed,
    folder_of,
    refusal,
)

log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class LocalRun:
    """One run and its process, before, during and after it runs."""

    overrides: list[str]
    folder: Path
    config: dict[str, Any] | None = None
    refused: str | None = None
    slot: int = 0
    process: subprocess.Popen[bytes] | None = None
    began: float = 0.0
    code: int | None = None

    @property
    def done(self) -> bool:
        """Whether the run has its result."""
        return done(self.folder, self.config)


class LocalLauncher(Launcher):
    """Trains up to `jobs` runs at a time, with the GPUs divided among them."""

    def __init__(self, *, jobs: int) -> None:
        if jobs < 1:
            raise ValueError(f"hydra.launcher.jobs must be at least 1, got {jobs}")
        self.jobs = jobs
        self.config: Any = None
        self.hydra_context: Any = None

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Store Hydra's context and config; the processes find their task by its name."""
        del task_function
        self.hydra_context, self.config = hydra_context, config

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Train the unfinished runs; on a signal, ask them to save and stop.

        A run that has trained with another config counts as failed.

        Raises:
            SystemExit: after a signal; or a run failed, and no sweep of ours counts failures.
        """
        del initial_job_idx
        setup_globals()
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        jobs = [planned(self.hydra_context, self.config, overrides) for overrides in job_overrides]
        waiting = deque(job for job in jobs if not (job.refused or job.done))
        refused = [job for job in jobs if job.refused]
        for job in refused:
            log.error("%s: FAILED: %s", job.folder.name, job.refused)
        done = len(jobs) - len(waiting) - len(refused)
        if done:
            log.info("%d of %d runs are finished already", done, len(jobs))
        running: list[LocalRun] = []
        with _one_signal() as asked:
            while waiting or running:
                for job in [
                    job for job in running if job.process and job.process.poll() is not None
                ]:
                    running.remove(job)
                    self._end(job)
                while waiting and len(running) < self.jobs and not asked:
                    job = waiting.popleft()
                    job.slot = min(set(range(self.jobs)) - {other.slot for other in running})
                    running.append(job)
                    self._start(job)
                if asked:
                    waiting.clear()
                    _stop(running)
                time.sleep(0.1)
        if asked:
            raise SystemExit("stopped; run the same command to resume")
        return conclude([outcome(job) for job in jobs], self.config)

    def _start(self, job: LocalRun) -> None:
        """Start or resume a run, in its own session, so that a Ctrl-C reaches it only once."""
        job.folder.mkdir(parents=True, exist_ok=True)
        task = self.config.hydra.job.name
        quiet = ["trainer.enable_progress_bar=false"] if task == "train" else []
        command = [sys.executable, "-m", f"cascade.{task}", *quiet, *job.overrides]
        job.began = time.monotonic()
        with (job.folder / "output.log").open("ab") as file:
            file.write(f"-- started {time.strftime('%F %T')}\n".encode())
            file.flush()
            job.process = _process(command, file, self._environment(job.slot))
        log.info("%s: started; %s/output.log", job.folder.name, job.folder)

    def _environment(self, slot: int) -> dict[str, str]:
        """A run's environment: its share of threads and GPUs, if several run at a time."""
        environment = dict(os.environ)
        if self.jobs > 1:
            threads = max(1, (os.cpu_count() or 1) // self.jobs)
            environment.setdefault("OMP_NUM_THREADS", str(threads))
            if gpus := visible_gpus():
                environment["CUDA_VISIBLE_DEVICES"] = ",".join(share(gpus, slot, self.jobs))
        return environment

    def _end(self, job: LocalRun) -> None:
        assert job.process is not None
        job.code = job.process.returncode
        seconds = time.monotonic() - job.began
        if job.done:
            log.info("%s: finished in %.0f s", job.folder.name, seconds)
        elif job.code:
            log.error("%s: FAILED after %.0f s: %s", job.folder.name, seconds, failure(job))
        elif self.config.hydra.job.name not in RESULTS:
            log.info("%s: finished in %.0f s", job.folder.name, seconds)
        else:
            log.info("%s: stopped; run the same command to resume", job.folder.name)


def planned(context: HydraContext, master: DictConfig, overrides: Sequence[str]) -> LocalRun:
    """A run with its folder; refused if it has trained with another config."""
    config = context.config_loader.load_sweep_config(master, list(overrides))
    before = HydraConfig.instance().cfg
    try:
        HydraConfig.instance().set_config(config)
        folder = folder_of(config)
        plain = config_of(config)
        refused = refusal(folder, plain)
        return LocalRun(overrides=list(overrides), folder=folder, config=plain, refused=refused)
    finally:
        HydraConfig.instance().cfg = before


def outcome(job: LocalRun) -> JobReturn:
    """How a run ended: its validation loss, if it has one, or its error."""
    if job.refused:
        return failed(job.overrides, job.refused)
    if job.code and not job.done:
        return failed(job.overrides, f"{job.folder}: {failure(job)}")
    result = JobReturn(overrides=job.overrides, status=JobStatus.COMPLETED)
    if job.done and (job.folder / "bundle").is_dir():
        result.return_value = final_loss(job.folder)
    return result


def failure(job: LocalRun) -> str:
    """A failed run's last error message, or its exit code."""
    return last_error(job.folder, refusals=True) or f"exit code {job.code}"


def visible_gpus() -> list[str]:
    """The GPUs that this command may use, named as in CUDA_VISIBLE_DEVICES."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name for name in visible.split(",") if name]
    import torch

    return [str(number) for number in range(torch.cuda.device_count())]


def share(gpus: Sequence[str], slot: int, slots: int) -> list[str]:
    """The GPUs of one slot: equally many per slot; with fewer GPUs than slots, one shared GPU."""
    each = len(gpus) // slots
    return list(gpus[slot * each : (slot + 1) * each]) or [gpus[slot % len(gpus)]]


def _process(
    command: Sequence[str], file: IO[bytes], environment: dict[str, str]
) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=file,
        stderr=file,
        env=environment,
        start_new_session=True,
    )


def _stop(running: list[LocalRun]) -> None:
    """Ask every run to save and stop, and wait; a second signal to this command kills them."""
    processes = [job.process for job in running if job.process is not None]
    try:
        for process in processes:
            process.terminate()
        log.info("stopping: waiting for %d runs to save", len(processes))
        for process in processes:
            process.wait()
    except KeyboardInterrupt:
        for process in processes:
            process.kill()
    running.clear()


@contextlib.contextmanager
def _one_signal() -> Iterator[list[int]]:
    """Inside, the first SIGINT or SIGTERM is only recorded; the second raises."""
    asked: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)

    before = {n: signal.signal(n, note) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
