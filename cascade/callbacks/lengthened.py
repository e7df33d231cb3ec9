"""Lengthens a run when its training starts: until then its folder stays as it was."""

import logging
import shutil
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from cascade.checkpoint.finished import bundled_steps, is_finished
from cascade.checkpoint.run_config import fixed_part, write_config

log = logging.getLogger(__name__)


class Lengthened(pl.Callback):
    """Keeps the bundle of fewer steps as `bundle_at_<steps>`, and writes the config."""

    def __init__(self, run: Path, config: dict[str, Any]) -> None:
        self._run, self._config = run, config

    def on_train_start(self, trainer: pl.Trainer, _module: pl.LightningModule) -> None:
        """All checks have passed, and the data is open."""
        if not trainer.is_global_zero:
            return
        run, done = self._run, bundled_steps(self._run)
        if done is not None and not is_finished(run, self._config):
            kept = run / f"bundle_at_{done}"
            shutil.rmtree(kept, ignore_errors=True)  # the same weights, saved before
            (run / "bundle").rename(kept)
            log.info(
                "%s: lengthened from %d to %d steps; the bundle of %d steps is kept: %s",
                *(run, done, self._config["stage"]["train"]["steps"], done, kept.name),
            )
        write_config(run / "config.json", fixed_part(self._config))
