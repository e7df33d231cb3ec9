"""The W&B logger; if it fails, the run continues, and the CSV logger still has every row."""

import logging
from collections.abc import Callable
from functools import wraps
from typing import Any

from pytorch_lightning.loggers import WandbLogger as Base

log = logging.getLogger(__name__)


def _or_without(method: Callable[..., None]) -> Callable[..., None]:
    @wraps(method)
    def tried(self: "WandbLogger", *args: Any, **options: Any) -> None:
        import wandb

        if self.lost:
            return
        try:
            method(self, *args, **options)
        except (OSError, wandb.Error) as error:
            self.lost = True
            log.warning(
                "W&B logging failed (%r); until the run resumes, metrics go to the CSV only", error
            )

    return tried


class WandbLogger(Base):
    """Lightning's logger until W&B fails: a signal to a Slurm job ends W&B's service first."""

    #: Whether W&B has failed.
    lost = False

    log_metrics = _or_without(Base.log_metrics)
    log_hyperparams = _or_without(Base.log_hyperparams)
    log_table = _or_without(Base.log_table)
    log_video = _or_without(Base.log_video)
    save = _or_without(Base.save)
    finalize = _or_without(Base.finalize)
