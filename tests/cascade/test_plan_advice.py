"""What a plan says of the data and the time, on its page and at the command line."""

import json
from dataclasses import replace
from html import unescape

import pytest

from cascade.doctor import plan_page
from cascade.doctor.figure import Figure, format_value
from cascade.doctor.findings import SECTIONS
from cascade.doctor.loading import more_data
from cascade.plan import write
from data.worlds.world_shards import make_shapes
from tests import commands
from tests.cascade.planning import CAPTION, FakeBucket, FakeData, FakeSurvey, planned


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
def test_a_run_that_could_not_go_on_is_refused_by_its_plan(tmp_path):
    make_shapes(tmp_path / "one", clips=24, shard_size=12)
    make_shapes(tmp_path / "two", clips=24, shard_size=12, seed=1)
    common = ["stage=demo/base", "debug=smoke", f"paths.runs={tmp_path}", "data.make=null"]
    one, two = (f"data.shards={tmp_path / name}" for name in ("one", "two"))
    steps = ("trainer.max_steps=1", "trainer.enable_progress_bar=false")
    trained = commands.run("cascade.train", "logger=csv", *common, one, *steps)
    assert trained.returncode == 0, trained.stderr[-2000:]
    common += ["plan.device=cpu", "plan.rounds=1", "plan.warmup=0"]
    assert run(*common, one).returncode == 0
    for changed, said in (
        ([two], "the fingerprint of the checkpoint is"),
        ([one, "seed=7"], "seed: 0 → 7"),
    ):
        done = run(*common, *changed)
        assert done.returncode == 1
        assert said in done.stdout


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
