"""Lightning's loop counters, set from a run's step alone.

The whole run is one Lightning epoch. Lightning's checkpoints record where in the loops they were
written (within a batch, after it, at the end of an epoch), and each place resumes differently: off
by one batch, one row of the log, or one validation. Here a run always resumes between two steps.
"""

from typing import Any

import pytorch_lightning as pl

from cascade.trainer import callbacks

#: The attribute in which a callback keeps the step of the last completed validation.
VALIDATED = "validated_step"


def resume_after(trainer: pl.Trainer, batches: int) -> None:
    """Set Lightning's counters to resume after `batches` batches, within the run's one epoch.

    If a validation was due there and was not completed, it runs first.
    """
    if not batches:
        return
    fit = trainer.fit_loop
    epoch, loop = fit.epoch_progress, fit.epoch_loop
    for counts, value in ((epoch.total, 1), (epoch.current, 1)):
        _set(counts, ready=value, started=value, processed=0, completed=0)
    progress = loop.batch_progress
    for counts in (progress.total, progress.current):
        _set(counts, ready=batches, started=batches, processed=batches, completed=batches)
    progress.is_last_batch = False
    validation = loop.val_loop.batch_progress
    validation.reset()
    due = validation_due(trainer, batches)
    validated = getattr(_checkpoint_callback(trainer), VALIDATED, None)
    if due and validated is not None and validated < trainer.global_step:
        # This is how Lightning recognises a validation that was started and not completed.
        _set(validation.total, ready=1, started=1, processed=0, completed=0)
    # Lightning counts a step whose validation was due once more when it resumes.
    loop._batches_that_stepped = trainer.global_step - due


def validation_due(trainer: pl.Trainer, batches: int) -> bool:
    """Whether Lightning validates after so many batches: every `val_check_interval` of them."""
    every = trainer.val_check_interval
    if not trainer.enable_validation or trainer.check_val_every_n_epoch is not None:
        return False
    return isinstance(every, int) and batches % every == 0


def _checkpoint_callback(trainer: pl.Trainer) -> Any:
    return next((c for c in callbacks(trainer) if hasattr(c, VALIDATED)), None)


def _set(counts: Any, **values: int) -> None:
    for name, value in values.items():
        setattr(counts, name, value)
