"""The demo from shards to page at a tiny size, and the parts that it is made of."""

import json
import re
import sys

import pytest
import torch

from cascade.curves import last_step, read_curves
from cascade.demo.__main__ import StageProcess
from cascade.eval.following import following
from data.worlds.parse import parse
from data.worlds.shapes import heldout_prompts
from data.worlds.truth import shapes_truth
from tests import commands


def demo(folder, *overrides):
    tiny = ["shrink.steps=4", "shrink.batch=2", "callbacks.samples.every_n_steps=2", "debug=smoke"]
    tiny += ["name=default", "data.make.clips=24", "data.make.shard_size=12"]
    rows = "[{base: ['trainer=cpu2']}, {tsr1: [], ssr1: []}]"
    common = ",".join(f"'{override}'" for override in ("logger=csv", "data=shapes", *tiny))
    command = ["cascade.demo", f"paths.runs={folder}", "prompts.n=4"]
    command += [f"rows={rows}", f"common=[{common}]", "shown=2", *overrides]
    return commands.run(*command, timeout=400)


@pytest.mark.slow
def test_the_demo_ends_with_a_page_and_goes_on_where_it_was(tmp_path):
    first = demo(tmp_path)
    assert first.returncode == 0, first.stdout[-2000:] + first.stderr[-2000:]
    page = (tmp_path / "demo/index.html").read_text()
    for stage in ("base", "tsr1", "ssr1"):
        assert f"Training {stage}" in page
    assert page.count("<video") >= 2 * 3
    for source in re.findall(r'src="([^"]+\.mp4)"', page):
        assert "://" not in source
    report = json.loads((tmp_path / "demo/evaluation/evaluation.json").read_text())
    truth = json.loads((tmp_path / "demo/evaluation/truth.json").read_text())
    assert set(report) == {"base", "tsr1", "ssr1"}
    assert set(truth) == {"ssr1"}
    assert all(len(stage["prompts"]["records"]) == 4 for stage in report.values())
    assert truth["ssr1"]["prompts"]["figures"]["all"]["value"] == 1
    assert (tmp_path / "demo/cascade/cascade.yaml").is_file()
    changed = {path: path.stat().st_mtime_ns for path in tmp_path.glob("demo/*/default/bundle/*")}
    (tmp_path / "demo/index.html").unlink()
    second = demo(tmp_path)
    assert second.returncode == 0, second.stderr[-2000:]
    assert (tmp_path / "demo/index.html").is_file()
    assert all(path.stat().st_mtime_ns == time for path, time in changed.items())


@pytest.mark.slow
def test_the_minute_ends_with_a_page_too(tmp_path):
    few = ["logger=csv", "data=minute", "data.make.clips=12", "data.make.shard_size=12"]
    few += ["data.validation.samples=2", "stage.train.steps=2", "stage.train.val_videos=1"]
    few += ["stage.train.lr_factor.warmup_steps=0", "trainer.val_check_interval=2"]
    few += ["callbacks.samples.count=1", "stage.train.global_batch=2"]
    common = ",".join(f"'{override}'" for override in few)
    rows = "[{base: [], tsr1: []}, {tsr2: [], tsr3: [], ssr1: []}]"
    command = ["cascade.demo", "--config-name", "minute", f"paths.runs={tmp_path}", "prompts.n=1"]
    command += [f"rows={rows}", f"common=[{common}]", "shown=1", "only=[prompts]"]
    done = commands.run(*command, timeout=400)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    report = json.loads((tmp_path / "minute/evaluation/evaluation.json").read_text())
    assert set(report) == {"base", "tsr1", "tsr2", "tsr3", "ssr1"}
    assert (tmp_path / "minute/index.html").is_file()


def test_a_failed_stage_says_why(tmp_path):
    command = [sys.executable, "-c", "raise SystemExit('no memory left')"]
    training = StageProcess("base", tmp_path / "run", 10, command)
    training.start()
    assert training.process is not None
    training.process.wait()
    with pytest.raises(RuntimeError, match=r"stage base failed:\nno memory left"):
        training.check()


def test_curves_of_later_legs_count(tmp_path):
    for leg, rows in ((0, "0,0,1.0\n0,1,2.0\n"), (1, "0,1,3.0\n0,2,4.0\n"), (10, "0,3,5.0\n")):
        folder = tmp_path / f"metrics/version_{leg}"
        folder.mkdir(parents=True)
        (folder / "metrics.csv").write_text("epoch,step,loss\n" + rows + "0,,\n")
    assert read_curves(tmp_path) == {"loss": [(0, 1.0), (1, 3.0), (2, 4.0), (3, 5.0)]}
    assert last_step(tmp_path) == 3
    assert last_step(tmp_path / "nothing") == 0


def test_the_truth_of_a_prompt_is_read_as_asked():
    from cascade.grid import Grid

    prompts = heldout_prompts(6)
    grid = Grid(frames=8, height=16, width=16, fps=4)
    videos = [shapes_truth(a, grid, i) for i, (_, a) in enumerate(prompts)]
    found = following(videos, [a.to_dict() for _, a in prompts], parse, fps=4)
    assert found.share().right == 6
    assert videos[0].dtype == torch.uint8
