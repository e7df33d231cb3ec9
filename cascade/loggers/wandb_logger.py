"""The W&B logger; if it fails, the run continues, and the CSV logger still has every row.

If the service cannot be used at the start, the run is logged offline.
"""

import logging
import os
import urllib.error
import urllib.request
from collections.abc import Callable
from functools import wraps
from typing import Any

from lightning_fabric.loggers.logger import rank_zero_experiment
from pytorch_lightning.loggers import WandbLogger as Base

log = logging.getLogger(__name__)
#: Seconds to wait for an answer of the service before the run is logged offline.
ANSWER_S = 5.0
#: Seconds to wait for the run to start on a service that answers.
START_S = 30.0


def unreachable(timeout_s: float = ANSWER_S) -> str | None:
    """Why the service does not answer; None if it answers anything."""
    url = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")
    try:
        urllib.request.urlopen(url, timeout=timeout_s).close()
    except urllib.error.HTTPError:
        return None
    except (OSError, ValueError) as error:
        return f"{url}: {getattr(error, 'reason', error)}"
    return None


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

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The W&B run, started at first use; offline if the service cannot be used."""
        import wandb

        online = os.environ.get("WANDB_MODE", "online") in ("online", "run", "shared")
        if self._experiment is not None or self._offline or not online:
            return super().experiment
        why = unreachable()
        if why is None:
            self._wandb_init.setdefault("settings", wandb.Settings(init_timeout=START_S))
            try:
                return super().experiment
            except (OSError, ValueError, wandb.Error) as error:
                why = str(error).partition("\n")[0]
        log.warning(
            "W&B cannot be used (%s): the run is logged offline, in %s/wandb; send it later with "
            "`wandb sync`, or choose logger=csv",
            why,
            self._save_dir,
        )
        self._offline = True
        self._wandb_init["mode"] = "offline"  # W&B read the environment when it was first used
        return super().experiment

    log_metrics = _or_without(Base.log_metrics)
    log_hyperparams = _or_without(Base.log_hyperparams)
    log_table = _or_without(Base.log_table)
    log_video = _or_without(Base.log_video)
    save = _or_without(Base.save)
    finalize = _or_without(Base.finalize)
