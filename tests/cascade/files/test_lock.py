"""One process at a time trains in a run's folder; a short look at it does not stop a run."""

import errno
import fcntl
import logging
import threading

import pytest

from cascade import train
from cascade.files.lock import is_locked, locked


def test_a_run_waits_for_a_short_shared_lock(tmp_path):
    (tmp_path / ".lock").touch()
    with (tmp_path / ".lock").open() as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        threading.Timer(0.3, lambda: fcntl.flock(file, fcntl.LOCK_UN)).start()
        with train.run_lock(tmp_path):
            assert is_locked(tmp_path / ".lock")
    assert not is_locked(tmp_path / ".lock")


def test_a_second_process_that_trains_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(train, "LOCKED_S", 0.2)
    with (
        train.run_lock(tmp_path),
        pytest.raises(ValueError, match="another process trains here"),
        train.run_lock(tmp_path),
    ):
        pass


def test_a_file_system_without_locks_is_used_with_a_warning(tmp_path, monkeypatch, caplog):
    def flock(file, how):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", flock)
    caplog.set_level(logging.WARNING)
    with locked(tmp_path / "a/.lock", busy="another one writes"):
        assert not is_locked(tmp_path / "a/.lock")
    assert "this file system does not support locks" in caplog.text
    assert "another one writes" in caplog.text
