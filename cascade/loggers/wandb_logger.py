"""W&B's logger, without whom a run goes on: every row is in the CSV beside it."""

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
            log.warning("W&B is lost (%r); the rest of this leg is in the CSV alone", error)

    return tried


class WandbLogger(Base):
    """Lightning's, until its service ends: on a cluster a signal to the job ends that first."""

    #: Whether the service has ended before the run.
    lost = False

    log_metrics = _or_without(Base.log_metrics)
    log_hyperparams = _or_without(Base.log_hyperparams)
    log_table = _or_without(Base.log_table)
    log_video = _or_without(Base.log_video)
    save = _or_without(Base.save)
    finalize = _or_without(Base.finalize)
