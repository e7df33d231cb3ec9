"""A run's folder is one process's; who only looks does not keep a run from starting."""

import fcntl
import threading

import pytest

from cascade import train
from cascade.comparison import folder


def test_who_looks_for_a_moment_is_waited_for(tmp_path):
    (tmp_path / ".lock").touch()
    with (tmp_path / ".lock").open() as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        threading.Timer(0.3, lambda: fcntl.flock(file, fcntl.LOCK_UN)).start()
        with train.locked(tmp_path):
            assert folder.locked(tmp_path / ".lock")
    assert not folder.locked(tmp_path / ".lock")


def test_who_trains_is_not(tmp_path, monkeypatch):
    monkeypatch.setattr(train, "LOCKED_S", 0.2)
    with (
        train.locked(tmp_path),
        pytest.raises(ValueError, match="another process trains here"),
        train.locked(tmp_path),
    ):
        pass
