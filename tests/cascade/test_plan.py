"""Laws of the plan: every stage has one, and its figures agree with independent counts."""

import json
import time
from dataclasses import dataclass, field, replace
from html import unescape
from pathlib import Path
from typing import Any

import hydra
import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from cascade.bench import training_batch
from cascade.doctor import plan_page
from cascade.doctor.checkup import checkup
from cascade.doctor.figure import Figure, format_value
from cascade.doctor.findings import SECTIONS, Findings
from cascade.doctor.timing import more_data
from cascade.entry import CONF
from cascade.flops import parameter_count, training_flops
from cascade.grid import Grid
from cascade.params import build_on_meta
from cascade.plan import write
from stages.ssr import SpatialSR
from tests import commands

STAGES = sorted(
    str(path.relative_to(Path(CONF) / "stage").with_suffix(""))
    for path in Path(CONF).glob("stage/*/*.yaml")
)
CAPTION = "a small red circle moves left on a black background"


@dataclass
class FakeBucket:
    kind: str = "video"
    frames: int = 8
    height: int = 16
    width: int = 16
    fps: float = 4.0
    clips: int = 900
    batch: int = 32
    tokens: int = 64
    share: float = 1.0
    unused: float = 0.0
    cropped: float = 0.01


@dataclass
class FakeSurvey:
    samples: int = 1000
    train: int = 900
    held: int = 20
    images: int = 0
    unasked: int = 0
    dropped: dict[str, int] = field(default_factory=lambda: {"too short": 70, "no caption": 10})
    budget: int = 2048
    buckets: list[Any] = field(default_factory=lambda: [FakeBucket()])
    unused: float = 0.01
    cropped: float = 0.01
    cache_bytes: dict[str, float] = field(default_factory=lambda: {"index": 12345.0})
    batches_per_epoch: float = 90.0
    decoded_bytes: float = 3e6
    stored_side: float = 360.0
    needed_side: int = 16


class FakeData:
    """Batches of noise, in the loader's form; a loader that takes `seconds` per batch."""

    def __init__(self, grid, captions=(CAPTION,), seconds=0.0):
        self.grid, self.captions, self.seconds = grid, captions, seconds

    def train_loader(self, *, first, count, rank, world, accumulate):
        size = 32 // (world * accumulate)
        for number in range(first, first + count):
            time.sleep(self.seconds)
            yield {
                "video": torch.zeros((size, 3, *self.grid), dtype=torch.uint8),
                "fps": torch.full((size,), 4.0),
                "zoom": torch.ones(size),
                "caption": [self.captions[i % len(self.captions)] for i in range(size)],
                "key": [str(i) for i in range(size)],
                "position": torch.arange(size) + number * size,
                "state": [{} for _ in range(size)],
            }


@pytest.fixture
def config_of():
    def make(choice, *overrides):
        cfg = compose("plan", overrides=[f"stage={choice}", "logger=[]", "data=shapes", *overrides])
        return OmegaConf.to_container(cfg, resolve=True)

    with initialize_config_dir(version_base="1.3", config_dir=CONF):
        yield make


def planned(config, data=None, survey=None, stage="demo/base"):
    record = Findings(stage=stage, facts={"run": "default"})
    checkup(record, config, data, survey)
    return record


LARGE = "imagen_video/base"


@pytest.mark.parametrize(
    "choice", [pytest.param(s, marks=pytest.mark.slow) if s == LARGE else s for s in STAGES]
)
def test_every_stage_is_planned_without_memory(config_of, choice):
    config = config_of(choice, "trainer=gpu", "plan.device=h200", "plan.ranks=4")
    config["stage"]["train"]["global_batch"] = 16
    record = planned(config, stage=choice)
    network = record.value("network", "network")
    text = record.value("network", "text encoder")
    count = build_on_meta(choice)[1]
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
    assert record.value("time", "training time, by FLOPs") > 0
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


def test_data_is_counted_and_its_problems_are_warnings(config_of):
    config = config_of("demo/base", "plan.device=cpu", "plan.measure=false")
    data, sound = FakeData((8, 16, 16)), FakeSurvey()
    record = planned(config, data, sound)
    assert not record.advice
    assert record.dropped == {"too short": 70, "no caption": 10}
    assert record.value("data", "training clips") == 900
    assert record.value("data", "epochs") == pytest.approx(config["stage"]["train"]["steps"] / 90)
    assert record.value("files", "index") == 12345
    thin = replace(FakeBucket(), clips=40, width=32, tokens=128, batch=16, share=0.1)
    poor = FakeSurvey(
        unused=0.3,
        cropped=0.2,
        dropped={"too short": 400},
        train=20,
        buckets=[FakeBucket(share=0.9), thin],
    )
    long = FakeData((8, 16, 16), captions=[CAPTION, "far too long " * 100])
    advice = planned(config, long, poor).advice
    text = " ".join(one.what for one in advice)
    for word in ("budget", "cropped", "dropped", "8×16×32: 40 clips", "fewer than a batch"):
        assert word in text
    assert "16 of 32 captions are longer" in text
    assert any("data.batching=packing" in one.way_out for one in advice)


def test_packing_is_advised_only_where_it_is_not_set_and_the_network_packs(config_of):
    sparse = FakeSurvey(unused=0.3, cropped=0.2)
    packed = replace(sparse, buckets=[replace(FakeBucket(), batch=0)])
    for choice, survey in (("demo/base", packed), ("demo/ssr1", sparse)):
        config = config_of(choice, "plan.device=cpu", "plan.measure=false")
        advice = planned(config, None, survey).advice
        assert {"budget", "pixels"} <= {word for one in advice for word in one.what.split()}
        assert not any("packing" in one.way_out for one in advice)


@pytest.mark.slow
def test_flops_follow_the_buckets(config_of):
    config = config_of("demo/base", "plan.device=cpu", "plan.measure=false")
    one = planned(config, None, FakeSurvey()).value("step", "FLOPs per step")
    wide = replace(FakeBucket(), width=32, batch=16, share=0.5, tokens=128)
    both = FakeSurvey(buckets=[FakeBucket(share=0.5), wide])
    mixed = planned(config, None, both).value("step", "FLOPs per step")
    alone = planned(config, None, FakeSurvey(buckets=[wide])).value("step", "FLOPs per step")
    assert mixed == pytest.approx((one + alone) / 2, rel=1e-6)


def test_a_slow_loader_is_a_warning_with_the_workers_needed(config_of):
    config = config_of("demo/base", "plan.device=cpu", "plan.rounds=2", "plan.warmup=1")
    data = FakeData((8, 16, 16), seconds=1.0)
    record = planned(config, data, FakeSurvey())
    step = record.value("time", "step of a micro batch")
    load = record.value("time", "loading of a micro batch")
    assert 0.9 < load < 2
    rate = record.value("time", "steps per second")
    assert rate == pytest.approx(1 / (step + load), rel=0.05)  # no workers: one after the other
    assert record.value("time", "training time") == pytest.approx(
        config["stage"]["train"]["steps"] / rate / 3600, rel=1e-6
    )
    (advice,) = [a for a in record.advice if "loader" in a.what]
    workers = record.value("time", "workers needed")
    assert workers * step >= load
    assert f"data.loading.num_workers={workers}" in advice.way_out


def test_more_workers_than_cores_are_not_the_only_way_out():
    survey = FakeSurvey()
    assert more_data(4, 8, survey) == "data.loading.num_workers=4"
    way = more_data(5, 2, survey)
    assert "data.loading.cache_bytes=3000000: all decoded clips are kept in 2.86 MiB" in way
    assert "have a short side of 360 pixels, and this stage needs 16" in way
    assert "ARGS='encoding.short_side=16 filters.min_short_side=16'" in way
    large = more_data(5, 2, replace(survey, decoded_bytes=1e15, stored_side=20.0))
    assert large == "data.loading.num_workers=5 on a machine of more than 2 cores"


def test_few_held_out_clips_are_a_warning(config_of):
    config = config_of("demo/base", "plan.device=cpu", "plan.measure=false")
    (advice,) = planned(config, None, FakeSurvey(held=1)).advice
    assert advice.what.startswith("1 clips are held out, fewer than plan.thresholds.held=8")


class NeedsValues:
    """A kind that cannot run on `meta`, as one that encodes JPEGs."""

    scalars, takes_low = ("augment", "fps"), True

    def __init__(self, *, factor):
        self.plain = SpatialSR(factor=factor)
        self.scale = self.plain.scale
        self.expand, self.baseline = self.plain.expand, self.plain.baseline
        self.new_frames = self.plain.new_frames

    def reduce(self, x):
        return torch.from_numpy(self.plain.reduce(x).numpy().copy())


def test_a_kind_that_needs_values_is_planned_by_its_shapes(config_of):
    config = config_of("demo/ssr1", "plan.device=cpu", "plan.measure=false")
    plain = planned(config, None, FakeSurvey())
    config["stage"]["kind"]["_target_"] = f"{__name__}.NeedsValues"
    made = planned(config, None, FakeSurvey())
    for section, name in (("step", "FLOPs per step"), ("memory", "peak of a step")):
        assert made.value(section, name) == pytest.approx(plain.value(section, name), rel=0.02)


def test_page_and_json_hold_the_same_figures(config_of, tmp_path, capsys):
    config = config_of("demo/ssr1", "plan.device=cpu", "plan.measure=false")
    record = planned(config, FakeData((8, 32, 32)), FakeSurvey(), stage="demo/ssr1")
    path = write(record, tmp_path / "plan")
    plain = json.loads((tmp_path / "plan/plan.json").read_text())
    shown = unescape(path.read_text()).replace("\N{NO-BREAK SPACE}", " ")
    assert plain["sound"] is True
    for section in SECTIONS:
        for name, figure in plain[section].items():
            assert figure["how"] in ("measured", "counted", "estimated")
            assert name in shown
            assert format_value(figure["value"], figure["unit"]) in shown
    for reason, count in plain["dropped"].items():
        assert reason in shown
        assert str(count) in shown
    assert plain["buckets"][0]["clips"] == 900
    plan_page.show(record, path)
    assert "FLOPs per step" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (3 * 2**30, "bytes", "3 GiB"),
        (1.5e12, "FLOPs", "1.5 TFLOPs"),
        (5.6e9, "parameters", "5.6 G"),
        (0.125, "share", "12.5 %"),
        (0.0123, "s", "12.3 ms"),
        (None, "bytes", "–"),
        (12345, "clips", "12,345 clips"),
    ],
)
def test_figures_are_shown_in_a_readable_unit(value, unit, text):
    assert Figure(value, "counted", unit).text == text


def run(*arguments, cwd=None):
    return commands.run("cascade.plan", "logger=csv", *arguments, cwd=cwd)


@pytest.mark.slow
def test_the_command_writes_its_page_and_exits_by_what_it_found(tmp_path):
    common = [f"paths.runs={tmp_path}", "plan.data=false", "trainer=gpu"]
    done = run("stage=demo/base", "plan.device=h200", "plan.json=true", *common)
    assert done.returncode == 0, done.stderr[-2000:]
    folder = tmp_path / "demo/base/default/plan"
    assert json.loads(done.stdout) == json.loads((folder / "plan.json").read_text())
    assert (folder / "index.html").is_file()
    done = run("stage=imagen_video/tsr1", "plan.device=l4", *common)
    assert done.returncode == 1
    assert "error" in done.stdout
    assert (tmp_path / "imagen_video/tsr1/default/plan/index.html").is_file()
    done = run("stage=demo/base", "plan.device=b2000", *common)
    assert done.returncode == 1
    assert "the devices are auto, cpu, b200" in done.stderr


@pytest.mark.slow
def test_real_data_is_planned_and_measured_and_refused(tmp_path):
    common = [f"paths.runs={tmp_path}", "data=smoke", "stage=demo/base", "plan.rounds=2"]
    done = run("stage.train.global_batch=4", "plan.warmup=1", "plan.device=cpu", *common)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    plain = json.loads((tmp_path / "demo/base/default/plan/plan.json").read_text())
    assert plain["data"]["samples"]["value"] == 24
    assert plain["time"]["step of a micro batch"]["how"] == "measured"
    assert plain["files"]["index"]["value"] > 0
    done = run("stage.target.fps=400", "plan.device=cpu", *common)  # no clip is that fast
    assert done.returncode == 1
    plain = json.loads((tmp_path / "demo/base/default/plan/plan.json").read_text())
    assert plain["sound"] is False
    assert plain["advice"][0]["level"] == "error"
    assert plain["network"]["network"]["value"] > 0  # the rest is there all the same
