"""A training step never makes the CPU wait for a GPU, and its blocks share few graphs."""

import pytest

from tests.measure import gpu_path

STAGES = ("demo/base", "demo/tsr1", "demo/ssr1")
#: Operations that prepare a step, the text encoder's among them; with one copy or kernel more per
#: clip they would exceed it.
PREPARING = 230


@pytest.mark.parametrize("stage", STAGES)
def test_the_cpu_waits_for_no_copy_in_a_step(stage):
    parts = gpu_path.counts(stage, clips=8)
    assert {name: dict(one.waits) for name, one in parts.items() if one.waits} == {}
    assert parts["preparing"].queued <= 8
    assert parts["preparing"].kernels <= PREPARING


@pytest.mark.parametrize("stage", STAGES[::2])
def test_more_clips_make_no_more_kernels(stage):
    few, many = (gpu_path.counts(stage, clips=clips) for clips in (2, 16))
    for part in ("preparing", "forward", "backward"):
        assert many[part].kernels == few[part].kernels
        assert many[part].other_bytes > few[part].other_bytes


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES[::2])
def test_passes_without_gradients_make_no_graph_and_texts_share_theirs(stage):
    found = gpu_path.graphs(stage)
    first, *trained, last = found["graphs"]
    assert first == 0
    assert last == trained[-1]
    assert found["breaks"] == 0
    by_shape = list(zip(trained[::2], trained[1::2], strict=True))  # before and after another text
    assert by_shape[0][1] - by_shape[0][0] <= 1
    assert all(before == after for before, after in by_shape[1:])
