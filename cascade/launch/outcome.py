"""How the runs of one command ended, as Hydra's sweepers and the user are told it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from omegaconf import DictConfig, open_dict
from omegaconf.errors import OmegaConfBaseException

from cascade.checkpoint.run_config import ConfigChangedError, check_config
from cascade.shrink import resolved


def config_of(composed: DictConfig) -> dict[str, Any] | None:
    """The plain config that a run will train with; none where only its own process can tell.

    Hydra's own config is to be the run's meanwhile.
    """
    if composed.hydra.job.name != "train":
        return None
    cfg = composed.copy()
    with open_dict(cfg):
        del cfg["hydra"]
    try:
        return resolved(cfg)
    except OmegaConfBaseException:  # the job's environment is not here
        return None


def refusal(run: Path, config: dict[str, Any] | None) -> str | None:
    """Why a run cannot go on with this config, where something was trained with another."""
    if config is None:
        return None
    try:
        check_config(run, config)
    except ConfigChangedError as error:
        return str(error)
    return None


def failed(overrides: Sequence[str], why: str) -> JobReturn:
    """What Hydra is told of a run that failed."""
    told = JobReturn(overrides=overrides, status=JobStatus.FAILED)
    told.return_value = RuntimeError(why)
    return told


def counted(config: DictConfig) -> bool:
    """Whether a sweep of ours counts the failures; Hydra's own ends in a traceback of the first."""
    return str(config.hydra.sweeper._target_).startswith("hydra_plugins.cascade.")


def conclude(returns: Sequence[JobReturn], config: DictConfig) -> Sequence[JobReturn]:
    """The same, where a sweep counts them.

    Raises:
        SystemExit: with a line for each run that failed, where none does.
    """
    lost = [one._return_value for one in returns if one.status is JobStatus.FAILED]
    if lost and not counted(config):
        raise SystemExit("\n".join(f"error: {why}" for why in lost))
    return returns
