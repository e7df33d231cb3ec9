"""The speed figures: all there, and consistent with each other."""

import gzip
import json
import logging

import pytest
import torch
from hydra import compose, initialize_config_dir

from cascade.bench.kernels import compiled
from cascade.bench.parts import PARTS, Parts, part_of
from cascade.bench.speed import bench, quiet
from cascade.entry import CONF
from tests import commands


@pytest.fixture(scope="module")
def figures(tmp_path_factory):
    """The figures of a few steps of a shrunk stage, in two micro batches each, with a trace."""
    trace = tmp_path_factory.mktemp("bench") / "trace.json.gz"
    overrides = ["stage=demo/ssr1", "trainer=cpu", "trainer.accumulate_grad_batches=2", "logger=[]"]
    overrides += ["shrink={steps: 100, batch: 8}", "bench.loader=false", f"bench.trace={trace}"]
    overrides += ["bench.warmup=1", "bench.rounds=3", "bench.profiled=1", "bench.sampled=1"]
    with initialize_config_dir(version_base="1.3", config_dir=CONF):
        return bench(compose("bench", overrides=overrides)) | {"trace": trace}


def test_parts_of_a_step_sum_to_it(figures):
    parts = figures["parts_s"]
    assert tuple(parts) == PARTS
    assert sum(parts.values()) == pytest.approx(figures["divided_step_s"], rel=0.02)
    assert all(seconds > 0 for seconds in parts.values())
    step = figures["step_s"]
    assert step["min"] <= figures["divided_step_s"] <= step["max"]  # on a CPU: the same steps


def test_speeds_follow_from_the_median_step(figures):
    step = figures["step_s"]
    assert 0 < step["min"] <= step["median"] <= step["max"]
    assert figures["clips_per_step"] == 8
    assert figures["clips_per_s"] == pytest.approx(8 / step["median"])
    achieved = figures["training_flops"] / step["median"]
    assert figures["tflop_per_s"] == pytest.approx(achieved / 1e12)
    share = figures["tflop_per_s"] / figures["peak_tflop_per_s"]
    assert figures["share_of_peak"] == pytest.approx(share)
    assert 0 < share < 1.2
    assert figures["idle_share"] is None  # a CPU is never idle for itself
    assert figures["compiled"] is None
    assert figures["peak_memory_bytes"] > 2**20
    assert figures["sample_s"] > 0


def test_kernels_are_shares_of_the_time_with_the_longest_first(figures):
    kernels = figures["kernels"]
    assert sum(kernels["kinds"].values()) == pytest.approx(1)
    assert kernels["kinds"]["convolution"] > 0
    shares = [one["share"] for one in kernels["top"]]
    assert len(shares) == 15
    assert shares == sorted(shares, reverse=True)
    assert sum(shares) <= 1 + 1e-6
    assert all(one["count"] >= 1 for one in kernels["top"])


def test_the_trace_is_json_with_the_profiled_step(figures):
    with gzip.open(figures["trace"], "rt") as file:
        events = json.load(file)["traceEvents"]
    names = {event.get("name") for event in events}
    assert {one["name"] for one in figures["kernels"]["top"]} <= names


def test_time_belongs_to_the_innermost_action(monkeypatch):
    clock = iter(range(100))
    monkeypatch.setattr("cascade.bench.parts.time.perf_counter", lambda: next(clock))
    parts = Parts()
    parts.begin(waits=False)
    outer, inner = "[LightningModule]TrainedStage.optimizer_step", "[Strategy]Any.training_step"
    with parts.profile(outer), parts.profile(inner), parts.profile("forward"):
        pass  # noted at 1 to 6, 2 to 5 and 3 to 4
    spent = parts.end()
    assert {part: s for part, s in spent.items() if s} == {
        **{"trainer": 2, "optimizer": 2, "preparing": 2, "forward": 1}
    }


def test_averages_are_a_part_apart_from_other_callbacks():
    assert part_of("[Callback]EMA.on_train_batch_end") == "averages"
    assert part_of("[Callback]Guard.on_before_optimizer_step") == "callbacks"
    assert part_of("run_training_batch") is None


def test_compiled_code_is_counted():
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    assert compiled() is None
    double = torch.compile(lambda x: x + x, backend="eager")
    double(torch.ones(2, 2))
    double(torch.ones(2, 2, 2))
    code = compiled()
    assert code["graphs"] == 2
    assert code["breaks"] == 0
    assert code["seconds"] > 0


@pytest.mark.slow
def test_bench_times_the_loader_of_the_run(tmp_path):
    command = ["cascade.bench", "stage=demo/ssr1", "bench.rounds=3", "bench.json=true"]
    command += ["stage.train.global_batch=2", f"paths.runs={tmp_path}", "data.make.clips=20"]
    command += ["stage.train.crop=[4,16,16]", "data.clips.allow_upscale=true", "logger=csv"]
    done = commands.run(*command)
    assert done.returncode == 0, done.stderr[-2000:]
    figures = json.loads(done.stdout[done.stdout.index("{") :])
    assert figures["clips_per_step"] == 2
    assert figures["shapes"] == ["4×16×16"]
    assert figures["parts_s"]["data"] > 0
    assert not (tmp_path / "demo").exists()


@pytest.mark.slow
def test_bench_refuses_a_trace_of_no_step():
    done = commands.run(
        "cascade.bench", "stage=demo/base", "bench.trace=x.json", "bench.profiled=0"
    )
    assert done.returncode == 1
    assert "bench.profiled=3" in done.stderr


@pytest.mark.parametrize(
    "override", ["rounds=0", "warmup=0", "profiled=-1", "sampled=-1", "rounds=many", "rounds=1.5"]
)
def test_bench_refuses_numbers_of_steps_that_give_no_figure(override):
    with initialize_config_dir(version_base="1.3", config_dir=CONF):
        cfg = compose("bench", overrides=["stage=demo/base", f"bench.{override}"])
    with pytest.raises(ValueError, match=rf"^bench\.{override}: must be a whole number"):
        bench(cfg)


def test_lightning_speaks_again_after_a_fit_that_failed():
    log = logging.getLogger("pytorch_lightning.utilities.rank_zero")
    before = log.level
    with pytest.raises(RuntimeError), quiet():
        raise RuntimeError
    assert log.level == before
