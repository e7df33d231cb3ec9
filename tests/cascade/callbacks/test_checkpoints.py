"""A failed write is reported with the disk's own error and ends a run only where it must."""

import errno
import logging
import os
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import pytorch_lightning as pl

from cascade.callbacks.checkpoints import Checkpoints
from cascade.checkpoint import checkpoint_folder as folders
from cascade.checkpoint.checkpoint_folder import CheckpointError
from cascade.checkpoint.keep import Keep
from tests.cascade.checkpoint.test_checkpoint_folder import save

MODULE = Mock(spec=pl.LightningModule)
MODULE.name = "base"


def fails(number):
    def failing(*_args, **_named):
        raise OSError(number, os.strerror(number))

    return failing


def trainer(run: Path, step: int):
    return Mock(
        spec=pl.Trainer,
        default_root_dir=str(run),
        global_step=step,
        max_steps=9,
        state=SimpleNamespace(fn="fit"),
        sanity_checking=False,
        is_global_zero=True,
        callback_metrics={},
    )


def checkpoints(**values):
    return Checkpoints(every_n_steps=2, keep=Keep(last=1), **values)


@pytest.mark.parametrize(
    ("number", "room"), [(errno.ENOSPC, True), (errno.EDQUOT, True), (errno.EIO, False)]
)
def test_only_a_full_disk_asks_for_space(tmp_path, monkeypatch, caplog, number, room):
    monkeypatch.setattr(Path, "mkdir", fails(number))
    saver = checkpoints(max_failures=2)
    saver.on_train_batch_start(trainer(tmp_path, 2), MODULE)
    assert os.strerror(number) in caplog.text
    assert ("free disk space" in caplog.text) is room
    with pytest.raises(CheckpointError, match="2 times in a row") as ended:
        saver.on_train_batch_start(trainer(tmp_path, 4), MODULE)
    assert ("free disk space" in str(ended.value)) is room
    with pytest.raises(CheckpointError, match="could not be saved") as ended:
        checkpoints().on_train_end(trainer(tmp_path, 3), MODULE)
    assert os.strerror(number) in str(ended.value)
    assert ("free disk space" in str(ended.value)) is room


def test_metrics_that_cannot_be_recorded_are_logged(tmp_path, monkeypatch, caplog):
    save(tmp_path, 2)
    monkeypatch.setattr(folders, "write_manifest", fails(errno.EROFS))
    checkpoints().on_validation_end(trainer(tmp_path, 2), MODULE)
    assert "step 2: its metrics could not be recorded" in caplog.text
    assert os.strerror(errno.EROFS) in caplog.text


def test_old_checkpoints_that_cannot_be_removed_end_no_run(tmp_path, monkeypatch, caplog):
    for step in (2, 4):
        save(tmp_path, step)
    with monkeypatch.context() as patch, caplog.at_level(logging.ERROR):
        patch.setattr(folders, "remove", fails(errno.EACCES))
        checkpoints().on_validation_end(trainer(tmp_path, 4), MODULE)
    assert "old checkpoints could not be removed" in caplog.text
    assert [m.step for m in folders.manifests(tmp_path)] == [4, 2]
