"""Saves the complete state of a run between two steps, and removes old checkpoints by a rule."""

import contextlib
import errno
import logging
import shutil
import time
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from cascade.callbacks.loss_probe import probe_of
from cascade.callbacks.watchdog import alive
from cascade.checkpoint import checkpoint_folder as folders
from cascade.checkpoint.checkpoint_folder import Checkpoint, CheckpointError
from cascade.checkpoint.keep import Keep
from cascade.checkpoint.manifest import Manifest
from cascade.checkpoint.origin import commit, device, versions
from cascade.checkpoint.run_config import shapes
from cascade.checkpoint.state_file import StateFile
from cascade.parallel import ranks
from cascade.trainer import datamodule

log = logging.getLogger(__name__)


class Checkpoints(pl.Callback):
    """Writes `checkpoints/<step>/` every `every_n_steps` steps, at a stop and at the end.

    A step is saved after everything that belongs to it, its row in the log included, and before
    its validation starts: before the next batch, before a validation, or at the end. This must be
    the first callback, so that it sees the weights before another callback swaps in the averages.

    Args:
        every_n_steps: optimizer steps between two saves.
        keep: which checkpoints are kept.
        max_failures: after this many failed writes in a row the run ends. At a stop, one failed
            write ends it, since there is no later save.
    """

    #: `save_s` is the longest of this many last saves.
    REMEMBERED = 5

    def __init__(self, *, every_n_steps: int, keep: Keep, max_failures: int = 3) -> None:
        if every_n_steps < 1 or max_failures < 1:
            raise ValueError(
                f"checkpoint: every_n_steps and max_failures must be at least 1, got "
                f"{every_n_steps} and {max_failures}"
            )
        self.every_n_steps, self.keep, self.max_failures = every_n_steps, keep, max_failures
        #: The step of the last completed validation.
        self.validated_step = 0
        #: Its metrics.
        self.figures: dict[str, float] = {}
        self._config: Mapping[str, Any] = {}
        self._wandb_id: str | None = None
        self._resumed: Checkpoint | None = None
        self._durations: deque[float] = deque(maxlen=self.REMEMBERED)
        self._saved = self._tried = self._best_step = 0
        self._failures = 0
        self._failed: str | None = None
        self._unlogged: float | None = None

    def begin(
        self,
        *,
        config: Mapping[str, Any],
        wandb_id: str | None = None,
        resumed: Checkpoint | None = None,
    ) -> None:
        """Set what the checkpoints record of this run, and the checkpoint that it resumes from."""
        self._config, self._wandb_id, self._resumed = config, wandb_id, resumed
        if resumed is not None:
            self._saved = self._tried = resumed.step
            self.validated_step = resumed.manifest.validated
            self.figures = dict(resumed.manifest.figures)
            self._durations.append(resumed.manifest.save_s)

    @property
    def save_s(self) -> float | None:
        """Seconds of the longest recent save; before the first one, of the resumed checkpoint."""
        return max(self._durations, default=None)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Remove what a killed process left incomplete; all ranks must resume from one step."""
        if stage != "fit":
            return
        steps = ranks.gather(None if self._resumed is None else self._resumed.step)
        if len(set(steps)) > 1:
            raise CheckpointError(
                f"stage {pl_module.name}: all ranks must resume from one step, got {steps}"
            )
        if trainer.is_global_zero:
            folders.clear_parts(Path(trainer.default_root_dir))
        probe = probe_of(trainer)
        if probe is not None and self._resumed is not None:
            probe.expect(self._resumed.manifest)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any
    ) -> None:
        """Save here: the previous step is complete."""
        self._save_if_due(trainer, pl_module)
        if self._unlogged is not None:
            pl_module.log("checkpoint/save_s", self._unlogged)
            self._unlogged = None

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save before a validation, which may take long."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._save_if_due(trainer, pl_module)

    def on_validation_end(self, trainer: pl.Trainer, _module: pl.LightningModule) -> None:
        """Add the metrics to the step's checkpoint; mark a best step without one to be saved.

        It is saved later, once the trained weights are back in place of the averaged ones.
        """
        self.figures = _figures(trainer)
        if trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        step = self.validated_step = trainer.global_step
        run = Path(trainer.default_root_dir)
        best = False
        if trainer.is_global_zero:
            known = folders.manifests(run)
            mine = next((m for m in known if m.step == step), None)
            if mine is not None:
                noted = replace(mine, validated=step, figures=self.figures)
                with _disk_failures() as failures:
                    folders.write_manifest(folders.folder_of(run, step), noted)
                for failed in failures:
                    log.error("step %d: its metrics could not be recorded (%s)", step, failed)
                self._clear(run)
            elif self.keep.best is not None:
                best = self.keep.best.takes(self.figures, known)
        self._best_step = step if ranks.gather(best)[0] else self._best_step

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save the last step, whatever its number, at a stop and at the end."""
        stopped = trainer.global_step < trainer.max_steps
        self._save_if_due(trainer, pl_module, last=True)
        if stopped and self._saved < trainer.global_step:
            raise CheckpointError(
                f"stage {pl_module.name}: step {trainer.global_step} could not be saved "
                f"({self._failed}); the last complete checkpoint is step {self._saved}; run the "
                "same command to resume from it"
            )

    def _save_if_due(
        self, trainer: pl.Trainer, module: pl.LightningModule, *, last: bool = False
    ) -> None:
        step = trainer.global_step
        due = last or step % self.every_n_steps == 0 or step == self._best_step
        if not due or step in (0, self._saved) or (step == self._tried and not last):
            return
        self._tried = step
        alive(trainer, f"the save at step {step}")
        # A validation runs in inference mode, in which sharded weights cannot be gathered.
        with torch.inference_mode(False), torch.no_grad():
            began = time.monotonic()
            failed = self._save(trainer, module, began)
        alive(trainer, f"after the save at step {step}")
        if failed is None:
            self._saved, self._failures = step, 0
            self._durations.append(max(ranks.gather(time.monotonic() - began)))
            self._unlogged = self._durations[-1]
            return
        self._failed = failed
        self._failures += 1
        message = (
            f"step {step} could not be saved ({failed}), {self._failures} times in a row; "
            f"the last complete checkpoint is step {self._saved}"
        )
        if self._failures >= self.max_failures:
            raise CheckpointError(f"stage {module.name}: {message}")
        log.error("%s; training continues", message)

    def _save(self, trainer: pl.Trainer, module: pl.LightningModule, began: float) -> str | None:
        """Write a checkpoint; return the reason if the write failed."""
        run = Path(trainer.default_root_dir)
        target = folders.folder_of(run, trainer.global_step)
        part = target.with_name(f".{target.name}.part")
        try:
            failed = self._write_state(trainer, part)
            if failed is None:
                with _disk_failures() as failures:
                    manifest = self._describe(trainer, module, part, began)
                    if trainer.is_global_zero:
                        folders.publish(part, target, manifest)
                failed = failures[0] if failures else None
                failed = next((f for f in ranks.gather(failed) if f is not None), None)
        finally:
            if trainer.is_global_zero:
                shutil.rmtree(part, ignore_errors=True)
        if failed is None and trainer.is_global_zero:
            self._clear(run)
        return failed

    def _write_state(self, trainer: pl.Trainer, part: Path) -> str | None:
        with _disk_failures() as failures:
            if trainer.is_global_zero:
                shutil.rmtree(part, ignore_errors=True)
                part.mkdir(parents=True)
        failed = next((f for one in ranks.gather(failures) for f in one), None)
        if failed is None:
            with _disk_failures() as failures:
                # `Trainer.save_checkpoint` without its barrier, which a failed rank never reaches.
                state = trainer._checkpoint_connector.dump_checkpoint(weights_only=False)
                trainer.strategy.save_checkpoint(state, part / folders.STATE)
            failed = next((f for one in ranks.gather(failures) for f in one), None)
        return failed

    def _describe(
        self, trainer: pl.Trainer, module: pl.LightningModule, part: Path, began: float
    ) -> Manifest:
        io = _file_of(trainer)
        probe = probe_of(trainer)
        validated = self.validated_step == trainer.global_step
        return Manifest(
            step=trainer.global_step,
            files=folders.describe(part, {} if io is None else io.written),
            stage=str(module.name),
            shapes=shapes(module),
            data=_position(trainer),
            config=self._config,
            commit=commit(),
            versions=versions(),
            world=trainer.world_size,
            strategy=type(trainer.strategy).__name__,
            precision=str(trainer.precision),
            device=device(module.device),
            wandb_id=self._wandb_id,
            probe=None
            if probe is None
            else {"loss": probe.measure(trainer, module), "samples": probe.samples},
            validated=self.validated_step,
            figures=self.figures if validated else {},
            save_s=time.monotonic() - began,
        )

    def _clear(self, run: Path) -> None:
        with _disk_failures() as failures:
            unwanted = self.keep.unwanted(folders.manifests(run))
            folders.remove(folders.folder_of(run, step) for step in sorted(unwanted))
        for failed in failures:  # the next save tries again
            log.error("%s: old checkpoints could not be removed (%s)", run, failed)


def _figures(trainer: pl.Trainer) -> dict[str, float]:
    known = sorted(trainer.callback_metrics.items())
    return {name: float(value) for name, value in known if name.startswith("val/")}


@contextlib.contextmanager
def _disk_failures() -> Iterator[list[str]]:
    """Collects OS errors raised inside as text, so that a failed write does not end the run."""
    failures: list[str] = []
    try:
        yield failures
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        failures.append(f"{error}; free disk space" if full else str(error))


def _file_of(trainer: pl.Trainer) -> StateFile | None:
    io = getattr(trainer.strategy, "_checkpoint_io", None)
    return io if isinstance(io, StateFile) else None


def _position(trainer: pl.Trainer) -> dict[str, Any]:
    data = datamodule(trainer)
    state = {} if data is None else dict(data.state_dict())
    return {name: value for name, value in state.items() if name != "quarantine"}
