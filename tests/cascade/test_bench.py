"""The speed figures: all there, and consistent with each other."""

import json

import pytest

from tests import commands


@pytest.mark.slow
def test_bench_prints_consistent_figures(tmp_path):
    command = ["cascade.bench", "stage=demo/ssr1", "bench.rounds=3"]
    command += ["bench.batch=2", f"paths.runs={tmp_path}", "data.make.clips=20", "logger=csv"]
    command += ["stage.train.crop=[4,16,16]", "data.clips.allow_upscale=true"]
    done = commands.run(*command)
    assert done.returncode == 0, done.stderr[-2000:]
    figures = json.loads(done.stdout[done.stdout.index("{") :])
    step = figures["training_step_s"]
    assert 0 < step["min"] <= step["median"] <= step["max"]
    assert figures["clips_per_s"] == pytest.approx(2 / step["median"])
    achieved = figures["training_flops"] / step["median"]
    assert figures["tflop_per_s"] == pytest.approx(achieved / 1e12)
    assert 0 < figures["share_of_peak"] < 1.2
    assert figures["load_batch_s"]["median"] > 0
