"""How the runs of one command ended, as reported to Hydra's sweepers and to the user."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from omegaconf import DictConfig, open_dict
from omegaconf.errors import OmegaConfBaseException

from cascade.checkpoint.finished import is_finished
from cascade.checkpoint.run_config import ConfigChangedError, check_config
from cascade.comparison.run_folder import finished
from cascade.shrink import resolved

#: Commands whose run has a result in its folder; another's job has succeeded by its exit status.
RESULTS = ("train", "evaluate")


def folder_of(composed: DictConfig) -> Path:
    """The folder of a job: the run's, or that of the logs of a command without one."""
    hydra = composed.hydra
    if hydra.job.name in RESULTS:
        return Path(hydra.run.dir)
    return Path(hydra.sweep.dir, hydra.sweep.subdir)


def config_of(composed: DictConfig) -> dict[str, Any] | None:
    """The plain config that a run will train with; None if only its own process can resolve it.

    Meanwhile `HydraConfig` must be that of the run.
    """
    if composed.hydra.job.name != "train":
        return None
    cfg = composed.copy()
    with open_dict(cfg):
        del cfg["hydra"]
    try:
        return resolved(cfg)
    except OmegaConfBaseException:  # it needs the job's environment
        return None


def refusal(run: Path, config: dict[str, Any] | None) -> str | None:
    """Why a run cannot train with this config: it has trained with another; None if it can."""
    if config is None:
        return None
    try:
        check_config(run, config)
    except ConfigChangedError as error:
        return str(error)
    return None


def done(run: Path, config: dict[str, Any] | None) -> bool:
    """Whether a run has its result: of all steps, where its config is known."""
    return finished(run) if config is None else is_finished(run, config)


def failed(overrides: Sequence[str], why: str) -> JobReturn:
    """Hydra's result of a run that failed."""
    result = JobReturn(overrides=overrides, status=JobStatus.FAILED)
    result.return_value = RuntimeError(why)
    return result


def counted(config: DictConfig) -> bool:
    """Whether a sweeper of ours counts failures; Hydra's own shows the first one's traceback."""
    return str(config.hydra.sweeper._target_).startswith("hydra_plugins.cascade.")


def conclude(returns: Sequence[JobReturn], config: DictConfig) -> Sequence[JobReturn]:
    """The results unchanged, for a sweeper that counts failures.

    Raises:
        SystemExit: with a line for each failed run, if the sweeper does not count them.
    """
    lost = [one._return_value for one in returns if one.status is JobStatus.FAILED]
    if lost and not counted(config):
        raise SystemExit("\n".join(f"error: {why}" for why in lost))
    return returns
