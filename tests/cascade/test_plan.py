"""Laws of the plan: every stage has one, and its figures agree with independent counts."""

from dataclasses import replace
from pathlib import Path

import hydra
import pytest

from cascade.bench.clips import training_batch
from cascade.entry import CONF
from cascade.flops import parameter_count, training_flops
from cascade.grid import Grid
from cascade.params import build_on_meta
from tests.cascade.planning import CAPTION, FakeBucket, FakeSurvey, planned

STAGES = sorted(
    str(path.relative_to(Path(CONF) / "stage").with_suffix(""))
    for path in Path(CONF).glob("stage/*/*.yaml")
)


LARGE = ("imagen_video/", "bench/")


@pytest.mark.parametrize(
    "choice",
    [pytest.param(s, marks=pytest.mark.slow) if s.startswith(LARGE) else s for s in STAGES],
)
def test_every_stage_is_planned_without_memory(config_of, choice):
    config = config_of(choice, "trainer=gpu", "plan.device=h200", "plan.ranks=4")
    config["stage"]["train"]["global_batch"] = 16
    record = planned(config, stage=choice)
    network = record.value("network", "network")
    text = record.value("network", "text encoder")
    count = build_on_meta([choice])[0][1]
    frozen = "t5" in config["stage"]["text"]["_target_"]
    assert network + (0 if frozen else text) == count == record.value("network", "all trained")
    assert record.value("step", "FLOPs per step") > 6 * record.value("step", "tokens per step")
    kinds = ("weights", "optimizer", "averages", "gradients", "activations", "temporaries")
    kinds += ("buckets", "frozen")
    parts = [record.value("memory", kind) or 0 for kind in kinds]
    assert sum(parts) == record.value("memory", "peak of a step")
    assert record.value("memory", "buckets") == pytest.approx(4 * count, rel=0.01)
    if frozen:
        assert text == pytest.approx(4.7e9, rel=0.03)  # T5-XXL's encoder
        assert record.value("memory", "frozen") == pytest.approx(2 * text, rel=0.01)
        assert any("make embeddings" in advice.way_out for advice in record.advice)
    assert record.value("time", "training time, predicted") > 0
    assert record.figures["time"]["real steps"].value is None
    assert record.value("files", "bundle") == pytest.approx(4 * count, rel=0.01)


@pytest.mark.parametrize("choice", ["demo/base", "demo/ssr1"])
def test_flops_are_what_bench_counts(config_of, choice):
    config = config_of(choice, f"plan.captions=['{CAPTION}']", "plan.device=cpu")
    record = planned(config)
    stage = hydra.utils.instantiate(config["stage"], _convert_="all")
    stage.configure_model()
    frames, height, width = stage.recipe.crop or stage.target.shape
    grid = Grid(frames=frames, height=height, width=width, fps=stage.target.fps)
    batch = training_batch(stage, grid, stage.recipe.global_batch)
    for purpose, within in (("train", 1e-6), ("bench", 0.03)):  # other captions are dropped
        counted = training_flops(lambda p=purpose: stage.losses(batch, purpose=p)[0].mean())
        assert record.value("step", "FLOPs per step") == pytest.approx(counted, rel=within)
    assert record.value("network", "all trained") == parameter_count(stage)


SMALL = ("trainer=gpu", "plan.device=h200", "plan.devices.h200.memory_mib=900")


@pytest.mark.slow
def test_a_step_too_large_for_the_device_is_an_error_with_a_setting_that_fits(config_of):
    record = planned(config_of("demo/base", *SMALL))
    (error,) = record.errors
    accumulate = record.value("memory", "accumulated batches that fit")
    assert f"trainer.accumulate_grad_batches={accumulate}" in error.way_out
    assert 32 % accumulate == 0
    largest = record.value("memory", "micro batch that fits")
    assert not record.figures["memory"]["micro batch that fits"].at_least
    assert 1 <= 32 / accumulate <= largest < 32
    fits = planned(config_of("demo/base", *SMALL, f"trainer.accumulate_grad_batches={accumulate}"))
    assert not fits.errors
    assert fits.value("memory", "needed per rank") <= fits.value("memory", "device memory")
    assert fits.value("step", "FLOPs per step") == record.value("step", "FLOPs per step")


def test_a_micro_batch_that_is_a_ranks_whole_share_is_a_lower_bound(config_of):
    record = planned(config_of("demo/base", "trainer=gpu", "plan.device=h200"))
    assert record.figures["memory"]["micro batch that fits"].text == "at least 32 clips"


def test_a_stage_that_does_not_fit_with_any_micro_batch(config_of):
    tiny = (*SMALL[:2], "plan.devices.h200.memory_mib=840", "plan.ranks=16")
    record = planned(config_of("demo/base", *tiny))
    assert record.value("memory", "micro batch that fits") == 0
    assert "not even one clip fits" in record.errors[0].way_out
    spread = planned(config_of("demo/base", *tiny, "+trainer.strategy=fsdp"))
    for part in ("weights", "optimizer", "averages"):
        whole = record.value("memory", part)
        assert spread.value("memory", part) == pytest.approx(whole / 16, rel=0.01)


def test_ranks_that_do_not_divide_the_batch_are_an_error(config_of):
    config = config_of("demo/base", "trainer=gpu", "plan.device=h200", "plan.ranks=5")
    (error,) = planned(config).errors
    assert "32 is not a multiple of 5 ranks" in error.what
    assert "global_batch=30" in error.way_out


@pytest.mark.slow
def test_flops_follow_the_buckets(config_of):
    config = config_of("demo/base", "plan.device=cpu", "plan.measure=false")
    one = planned(config, None, FakeSurvey()).value("step", "FLOPs per step")
    wide = replace(FakeBucket(), width=32, batch=16, share=0.5, tokens=128)
    both = FakeSurvey(buckets=[FakeBucket(share=0.5), wide])
    mixed = planned(config, None, both).value("step", "FLOPs per step")
    alone = planned(config, None, FakeSurvey(buckets=[wide])).value("step", "FLOPs per step")
    assert mixed == pytest.approx((one + alone) / 2, rel=1e-6)
