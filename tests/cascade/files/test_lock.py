"""A run's folder is one process's; who only looks does not keep a run from starting."""

import errno
import fcntl
import logging
import threading

import pytest

from cascade import train
from cascade.files.lock import is_locked, locked


def test_who_looks_for_a_moment_is_waited_for(tmp_path):
    (tmp_path / ".lock").touch()
    with (tmp_path / ".lock").open() as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        threading.Timer(0.3, lambda: fcntl.flock(file, fcntl.LOCK_UN)).start()
        with train.alone(tmp_path):
            assert is_locked(tmp_path / ".lock")
    assert not is_locked(tmp_path / ".lock")


def test_who_trains_is_not(tmp_path, monkeypatch):
    monkeypatch.setattr(train, "LOCKED_S", 0.2)
    with (
        train.alone(tmp_path),
        pytest.raises(ValueError, match="another process trains here"),
        train.alone(tmp_path),
    ):
        pass


def test_a_file_system_without_locks_is_told_and_worked_on(tmp_path, monkeypatch, caplog):
    def flock(file, how):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", flock)
    caplog.set_level(logging.WARNING)
    with locked(tmp_path / "a/.lock", busy="another one writes"):
        assert not is_locked(tmp_path / "a/.lock")
    assert "this file system gives no locks" in caplog.text
    assert "another one writes" in caplog.text
