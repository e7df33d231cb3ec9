"""The cores that load data."""

import pytest

from cascade import cores


@pytest.mark.parametrize(
    ("machine", "ranks", "processes"), [(1, 1, 1), (2, 1, 1), (16, 1, 14), (16, 4, 3), (64, 8, 7)]
)
def test_loader_processes_take_the_cores_that_training_leaves(
    machine, ranks, processes, monkeypatch
):
    monkeypatch.setattr(cores, "cores", lambda: machine)
    assert cores.loader_processes(None, ranks) == processes
    assert cores.loader_processes(0, ranks) == 0
    assert cores.loader_processes(5, ranks) == 5
