"""Lightning's own counters, set from a run's step alone, wherever in its loops it was saved.

One Lightning epoch is the whole run. Its checkpoints remember where in the loops they were written
(in a batch, after it, at an epoch's end), and each place resumes a little differently: by one
batch, one row of the log, or one validation. Here all of them become one: between two steps.
"""

from typing import Any

import pytorch_lightning as pl

from cascade.trainer import callbacks

#: The attribute by which a callback tells the step of the last validation that was finished.
VALIDATED = "validated_step"


def go_on(trainer: pl.Trainer, batches: int) -> None:
    """Have Lightning go on behind `batches` batches of this run, in the midst of its one epoch.

    A validation that was due there and is not known to be finished is done first.
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
    done = getattr(_teller(trainer), VALIDATED, None)
    if due and done is not None and done < trainer.global_step:
        # Lightning's sign of a validation that was begun and not finished.
        _set(validation.total, ready=1, started=1, processed=0, completed=0)
    # Behind a step whose validation was due, Lightning ends that step once more.
    loop._batches_that_stepped = trainer.global_step - due


def validation_due(trainer: pl.Trainer, batches: int) -> bool:
    """Whether Lightning validates after so many batches: every `val_check_interval` of them."""
    every = trainer.val_check_interval
    if not trainer.enable_validation or trainer.check_val_every_n_epoch is not None:
        return False
    return isinstance(every, int) and batches % every == 0


def _teller(trainer: pl.Trainer) -> Any:
    return next((c for c in callbacks(trainer) if hasattr(c, VALIDATED)), None)


def _set(counts: Any, **values: int) -> None:
    for name, value in values.items():
        setattr(counts, name, value)
