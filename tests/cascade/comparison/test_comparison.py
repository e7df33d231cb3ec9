"""Comparing runs: config differences, the best values, how each run ended, and the page."""

import fcntl
import json
from pathlib import Path

import pytest
import torch

from cascade.comparison.compare_page import CURVES, chart_groups, write_page
from cascade.comparison.films import cross, split_panels
from cascade.comparison.find import find, read_local
from cascade.comparison.run_folder import read_folder
from cascade.comparison.run_record import RunRecord
from cascade.comparison.table import as_text, best, best_of_stages, chosen, differing, short
from cascade.video import write_mp4

FIGURES = ["val/loss", "val/*/psnr", "train/loss"]


def run(
    folder: Path,
    *,
    target="x",
    max_t=0.5,
    losses=(1.0, 0.5),
    bundle=True,
    steps=(2,),
    log=None,
) -> Path:
    """A run's folder as training leaves it."""
    config = {
        "stage": {
            "diffusion": {"target": target},
            "augment": {"max_t": max_t},
            "target": {"height": 16, "width": 16},
            "train": {"steps": 2},
        },
        "data": {"max_steps": 2, "loading": {"num_workers": hash(folder) % 7}},
        "seed": 0,
    }
    (folder / "metrics/version_0").mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    rows = "".join(f"{loss},{step}\n" for step, loss in enumerate(losses))
    (folder / "metrics/version_0/metrics.csv").write_text(f"val/loss,step\n{rows}")
    for step in steps:
        samples = folder / f"samples/{step:08d}"
        samples.mkdir(parents=True)
        captions = {"0.mp4": "a red circle", "1.mp4": "a blue cross"}
        (samples / "captions.json").write_text(json.dumps(captions))
        parts = [torch.full((3, 4, 16, 16), value) for value in (-1.0, 0.0, 1.0)]
        for name in captions:
            write_mp4(samples / name, torch.cat(parts, dim=-1), fps=4)
    if bundle:
        (folder / "bundle").mkdir()
    if log is not None:
        (folder / "output.log").write_text(log)
    return folder


@pytest.fixture
def crossed(tmp_path):
    """Two predictions by two levels of noise: two finished, one failed, one stopped."""
    sweep = tmp_path / "runs/demo/ssr1/two"
    run(sweep / "target=x,max_t=0.5", losses=(1.0, 0.4))
    run(sweep / "target=x,max_t=1.0", max_t=1.0, losses=(1.0, 0.3))
    log = "step 1\nTraceback …\nValueError: not finite\n"
    run(sweep / "target=v,max_t=0.5", target="v", losses=(1.0,), bundle=False, steps=(), log=log)
    run(sweep / "target=v,max_t=1.0", target="v", max_t=1.0, bundle=False, steps=(1, 2))
    return sweep


def test_a_sweeps_folder_gives_its_runs_and_how_each_ended(crossed, tmp_path):
    records = {r.name: r for r in find(str(crossed), scratch=tmp_path)}
    assert {name: r.state for name, r in records.items()} == {
        "target=v,max_t=0.5": "failed",
        "target=v,max_t=1.0": "stopped at step 1",
        "target=x,max_t=0.5": "finished",
        "target=x,max_t=1.0": "finished",
    }
    assert records["target=v,max_t=0.5"].error == "ValueError: not finite"
    with (crossed / "target=v,max_t=1.0/.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert read_folder(crossed / "target=v,max_t=1.0").state == "running"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("config.json", '{"a": '),
        ("metrics/version_0/metrics.csv", "step,train/loss\nabc,1\n\n"),
        ("metrics/version_0/metrics.csv", "step,train/loss\n1,1,2,3\n\n"),
        ("evaluation.json", '{"base"'),
        ("samples/00000001/captions.json", "[]"),
    ],
)
def test_a_damaged_run_is_named_and_the_others_are_shown(crossed, tmp_path, name, text):
    path = crossed / "target=x,max_t=0.5" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    records = {r.name: r for r in find(str(crossed), scratch=tmp_path)}
    assert len(records) == 4
    damaged = records["target=x,max_t=0.5"]
    assert damaged.state == "damaged"
    assert "target=x,max_t=0.5" in damaged.error
    assert records["target=x,max_t=1.0"].state == "finished"


def test_globs_and_several_places_give_each_run_once(crossed, tmp_path):
    several = find(f"'{crossed}/target=x*' {crossed} {crossed}/*1.0", scratch=tmp_path)
    assert len(several) == 4
    with pytest.raises(ValueError, match="no run in this place"):
        find(f"{tmp_path}/nothing*", scratch=tmp_path)
    with pytest.raises(ValueError, match="RUNS is empty"):
        find("", scratch=tmp_path)


def test_only_what_differs_and_touches_the_figures_is_in_the_table(crossed, tmp_path):
    records = find(str(crossed), scratch=tmp_path)
    assert differing(records) == ["stage.diffusion.target", "stage.augment.max_t"]
    text = as_text(records, FIGURES)
    assert text.splitlines()[0].split() == ["run", "state", "step", "val/loss", "target", "max_t"]
    assert text.splitlines()[-1] == "target=v,max_t=0.5 failed: ValueError: not finite"


def test_a_key_that_follows_another_and_a_part_that_a_source_lacks_are_no_difference():
    def record(steps, **config):
        flat = {"stage.train.steps": steps, "data.max_steps": steps, **config}
        return RunRecord(name=str(steps), source=str(steps), state="finished", config=flat)

    one, two = record(1, seed=0), record(2, **{"seed": 0, "trainer.precision": "32-true"})
    assert differing([one, two]) == ["stage.train.steps"]
    assert differing([one, record(1, seed=1)]) == ["seed"]
    assert differing([one, record(1)]) == []


def test_a_callback_that_touches_the_numbers_is_a_difference_and_another_is_none():
    def record(factor, **config):
        flat = {"seed": 0, "callbacks.guard.factor": factor, **config}
        return RunRecord(name=str(factor), source=str(factor), state="finished", config=flat)

    one = record(10.0, **{"callbacks.samples.count": 4, "trainer.devices": 1})
    two = record(5.0, **{"callbacks.samples.count": 8, "trainer.devices": 2})
    assert differing([one, two]) == ["callbacks.guard.factor"]


def test_keys_are_as_short_as_tells_them_apart():
    assert short(["a.b.c", "a.d.c", "a.e"]) == {"a.b.c": "b.c", "a.d.c": "d.c", "a.e": "e"}


def test_the_best_is_the_least_loss_and_the_most_psnr():
    def record(name, loss, psnr):
        curves = {
            "val/loss": [(0, 9.0), (1, loss)],
            "val/true/psnr": [(1, psnr)],
            "odd": [(1, 1.0)],
        }
        return RunRecord(name=name, source=name, state="finished", curves=curves)

    records = [record("a", 0.5, 20.0), record("b", 0.4, 19.0), record("c", float("nan"), 1.0)]
    assert best(records, "val/loss") == 0.4
    assert best(records, "val/true/psnr") == 20.0
    assert best(records, "odd") is None
    assert chosen(records, ["val/*", "val/loss"]) == ["val/loss", "val/true/psnr"]


def test_the_best_is_marked_among_runs_of_one_stage():
    def record(name, stage, loss, side=16):
        config = {"stage.name": stage, "stage.target.height": side}
        curves = {"val/loss": [(1, loss)]}
        return RunRecord(name=name, source=name, state="", config=config, curves=curves)

    records = [record("a", "base", 0.5), record("b", "base", 0.4), record("c", "ssr1", 0.1)]
    records += [record("d", "ssr1", 0.2), record("e", "ssr1", 0.01, side=32)]
    tops = best_of_stages(records, ["val/loss"])
    assert tops == {"val/loss": {("b", "b"), ("c", "c")}}


def test_a_hundred_runs_make_a_page_that_loads_what_is_in_view(tmp_path):
    film = tmp_path / "a.mp4"
    write_mp4(film, torch.zeros(3, 4, 16, 32), fps=4.0)
    records = [
        RunRecord(
            name=f"run {n}",
            source=f"run {n}",
            state="finished",
            config={"stage.name": "base", "stage.lr": n, "stage.width": n % 7},
            curves={"val/loss": [(step, 1 / (step + n + 1)) for step in range(300)]},
            videos={2: {"made | real: a circle": lambda: film}},
        )
        for n in range(100)
    ]
    path = write_page(
        records, tmp_path / "p.html", title="t", figures=FIGURES, curves=FIGURES, prompts=2
    )
    page = path.read_text()
    assert page.count("<video") == page.count('preload="none"') >= 100
    assert "autoplay" not in page
    assert len(page) < 2e6
    assert max(row.count("<video") for row in page.split("<tr>")) <= 2


def test_a_sample_is_split_into_its_panels(crossed):
    record = read_folder(crossed / "target=x,max_t=0.5")
    path = record.videos[2]["a red circle"]()
    parts = split_panels(path, record.config)
    means = {name: float(film.video.mean()) for name, film in parts.items()}
    assert list(means) == ["low", "made", "real"]
    assert means["low"] < -0.9 < means["made"] < 0.1 < 0.9 < means["real"]
    assert [film.video.shape[-1] for film in parts.values()] == [16, 16, 16]
    wide = {**record.config, "stage.target.width": 48}  # a wide stage's sample is one picture
    assert list(split_panels(path, wide)) == ["made"]


def test_the_page_crosses_two_settings_at_a_common_step(crossed, tmp_path):
    records = find(str(crossed), scratch=tmp_path)
    (down, values), (across, others), place = cross(records)
    assert (down, across) == ("target", "max_t")
    assert (set(values), set(others)) == ({"x", "v"}, {"0.5", "1.0"})
    assert place["x", "1.0"] == "target=x,max_t=1.0"
    path = write_page(
        records, tmp_path / "p/index.html", title="t", figures=FIGURES, curves=FIGURES, prompts=2
    )
    page = path.read_text()
    assert "All at step 2;" in page
    assert "Runs without videos: target=v,max_t=0.5." in page
    # Two prompts; two rows of the input and the real clip, and three runs' samples.
    assert page.count("<video") == 2 * (2 * 2 + 3)
    assert "ValueError: not finite" in page
    assert "✓ 0.3" in page.replace('<span class="tone good">', "").replace("</span>", "")


def test_more_runs_than_colours_are_grouped_by_a_setting():
    def record(number, kind):
        config = {"stage.kind": kind, "stage.number": number}
        return RunRecord(name=f"{kind}{number}", source=f"{kind}{number}", state="", config=config)

    records = [record(number, kind) for kind in "ab" for number in range(CURVES)]
    parts = chart_groups(records)
    assert [label for label, _ in parts] == [", kind = a", ", kind = b"]
    assert all(len(part) <= CURVES for _, part in parts)
    assert len(chart_groups(records[:CURVES])) == 1


@pytest.mark.parametrize(
    ("log", "state"),
    [
        ("ValueError: x\nstopped at step 5; run the same command to resume\n", "stopped at step 5"),
        ("error: x\nsrun: error: n1: task 0: Exited with exit code 1\n", "failed"),
        ("error: x\nslurmstepd: error: *** STEP 7.0 ON n1 CANCELLED AT now ***\n", "failed"),
        ("srun: error: n1: task 0\nslurmstepd: error: *** JOB 7 ON n1 CANCELLED AT now ***\n", ""),
        ("error: old\n-- started now\nsteps\n", ""),
        ("error: old\n[now][cascade.train][INFO] - resuming from a/checkpoints/00000005\n", ""),
        (
            "-- started a\nsteps\n-- started b\nerror: r was trained with another config (old → "
            "new):\n  a: 1\n",
            "",
        ),
        (
            "-- started a\nerror: x\n-- started b\nerror: r: another process trains here; wait\n",
            "failed",
        ),
    ],
)
def test_a_runs_state_is_that_of_its_last_leg(tmp_path, log, state):
    folder = run(tmp_path / "a", bundle=False, steps=(), log=log)
    (folder / "checkpoints/00000005").mkdir(parents=True)
    record = read_folder(folder)
    assert record.state == (state or "stopped at step 5")
    assert record.error in (None, "error: x")
    assert record.step == 5


def test_half_written_captions_are_left_out_and_none_leads_elsewhere(tmp_path):
    folder = run(tmp_path / "a", steps=(1, 2))
    (folder / "samples/00000002/captions.json").write_text('{"0.mp4": "a r')
    assert set(read_folder(folder).videos) == {1}
    (folder / "samples/00000001/captions.json").write_text('{"../../0.mp4": "x"}')
    with pytest.raises(ValueError, match="is outside this folder"):
        read_folder(folder)


def test_a_step_is_the_number_of_steps_done_and_training_metrics_have_its_index(tmp_path):
    (tmp_path / "metrics/version_0").mkdir(parents=True)
    rows = "".join(f"1.0,{step}\n" for step in range(20))
    (tmp_path / "metrics/version_0/metrics.csv").write_text(f"train/loss,step\n{rows}")
    assert read_folder(tmp_path).step == 20
    assert read_folder(tmp_path).state == "stopped at step 20"


def test_a_place_is_a_path_before_it_is_a_glob(tmp_path, monkeypatch):
    """A sweep names folders by lists, and `[8,4]` is a glob of one letter too."""
    for name in ("crop=[8,4]", "crop=8", ".work"):
        (tmp_path / name / "metrics").mkdir(parents=True)
        (tmp_path / name / "config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    (one,) = read_local("crop=[8,4]")
    assert one.source.endswith("crop=[8,4]")
    for place in ("*", f"{tmp_path}/*", "./cr*"):
        assert {Path(run.source).name for run in read_local(place)} == {"crop=[8,4]", "crop=8"}
    with pytest.raises(ValueError, match="none: no run in this place"):
        read_local("none")
