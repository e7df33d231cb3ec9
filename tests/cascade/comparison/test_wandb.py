"""Runs read from W&B's own files and from its service give the same figures, configs and videos."""

import json
import shutil
import subprocess
import sys

import pytest
import wandb_service

from cascade.comparison.offline import legs_in, read_offline, records_of, video_paths
from cascade.comparison.run_folder import read_folder
from cascade.comparison.run_record import renamed
from cascade.comparison.wandb_report import write_report

X = [(0, 1.0), (1, 0.5), (2, 0.5 / 3), (3, 0.125), (4, 0.1), (5, 0.5 / 6)]


@pytest.fixture(scope="module")
def offline(wandb_runs):
    legs = [leg for run in ("x", "v") for leg in legs_in(wandb_runs / run / "wandb")]
    assert len(legs) == 3
    return {record.name.rpartition("/")[2]: record for record in read_offline(legs)}


def test_legs_are_one_run_by_the_trainers_step_and_csv_fills_what_a_kill_lost(offline):
    assert set(offline) == {"x", "v"}
    assert offline["x"].curves["train/loss"] == X  # the later leg where they overlap
    assert offline["x"].config["stage.diffusion.target"] == "x"
    assert offline["x"].config["stage.part"] == "Stage"  # as a run's folder records it
    assert offline["x"].name == "demo/ssr1/prediction/x"
    assert "2 legs" in offline["x"].source
    assert (offline["x"].state, offline["v"].state) == ("ended", "ended")


def test_a_finished_run_has_the_same_state_and_steps_in_its_folder_and_in_wandbs(
    wandb_runs, tmp_path
):
    home = tmp_path / "v"
    shutil.copytree(wandb_runs / "v", home)
    (home / "bundle").mkdir()
    (home / "checkpoints/00000007").mkdir(parents=True)
    (record,) = read_offline(legs_in(home / "wandb"))
    folder = read_folder(home)
    assert (record.state, record.step) == (folder.state, folder.step) == ("finished", 7)


def test_videos_of_files_are_found_by_step_and_caption(offline):
    (step,) = offline["v"].videos
    assert step == 6  # steps done; the last loss has the index 5
    films = offline["v"].videos[step]
    assert list(films) == ["low | made | real: a red circle", "low | made | real: a blue cross"]
    assert all(fetch().stat().st_size > 500 for fetch in films.values())


def test_a_file_that_is_not_wandbs_is_refused(tmp_path):
    (tmp_path / "run-cccc3333.wandb").write_bytes(b"not one")
    with pytest.raises(ValueError, match="W&B cannot read this run"):
        list(records_of(tmp_path))


ASK = """
import json, sys
from pathlib import Path
from cascade.comparison.service import read_service

place, scratch = sys.argv[1], Path(sys.argv[2])
found = read_service(place, scratch=scratch)
answers = {
    record.name.rpartition("/")[2]: [
        record.config, record.curves, record.step,
        {s: {c: f().stat().st_size for c, f in v.items()} for s, v in record.videos.items()},
    ]
    for record in found
}
refused = []
for wrong in ("wandb:entity/cascade/none", "wandb:entity/other", "wandb:entity"):
    try:
        read_service(wrong, scratch=scratch)
    except ValueError as error:
        refused.append(str(error))
print(json.dumps([answers, refused]))
"""


@pytest.fixture(scope="module")
def served(wandb_runs, tmp_path_factory):
    """What the service gives, and what it refuses; of one run two rows are in Parquet, no more."""
    scratch, runs = tmp_path_factory.mktemp("served"), wandb_service.recorded(wandb_runs)
    runs[0].exported = 2
    with wandb_service.serving(runs) as service:
        done = subprocess.run(
            [sys.executable, "-c", ASK, "wandb:entity/cascade/demo/ssr1/prediction", str(scratch)],
            env=wandb_service.environment(service, scratch / "cache"),
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_service_gives_what_the_files_give(served, offline):
    found, _ = served
    assert set(found) == {"x", "v"}
    for name, (config, curves, step, videos) in found.items():
        assert config == dict(offline[name].config)
        assert step == 6  # steps done; the last loss has the index 5
        wanted = offline[name].curves["train/loss"]
        # The service also lacks the rows that a kill lost; only the files have a CSV beside them.
        served_loss = [tuple(point) for point in curves["train/loss"]]
        assert served_loss == [point for point in wanted if point[0] >= served_loss[0][0]]
        films = offline[name].videos[6]
        assert videos == {"6": {caption: f().stat().st_size for caption, f in films.items()}}


def test_an_error_names_what_the_service_does_not_have(served):
    none, other, half = served[1]
    assert "W&B has no run with this group or id" in none
    assert "wandb:entity/other: W&B returned an error: Could not find project" in other
    assert "is not of the form wandb:entity/project" in half


@pytest.mark.slow
def test_the_page_and_the_report_come_from_the_service(wandb_runs, tmp_path):
    pytest.importorskip("wandb_workspaces")
    command = [sys.executable, "-m", "cascade.compare", "runs=wandb:entity/cascade", "report=true"]
    with wandb_service.serving(wandb_service.recorded(wandb_runs)) as service:
        done = subprocess.run(
            [*command, f"page={tmp_path}/index.html"],
            env=wandb_service.environment(service, tmp_path / "cache"),
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "/entity/cascade/reports/" in done.stdout
    page = (tmp_path / "index.html").read_text()
    assert page.count("<video") == 2 * (2 + 2)  # two prompts: input, real, and each run's sample
    (report,) = service.reports
    kinds = [block["type"] for block in json.loads(report["spec"])["blocks"]]
    assert kinds.count("panel-grid") == 3
    assert "| x | finished | 6 |" in report["spec"]
    assert all(identity in report["spec"] for identity in ("aaaa1111", "bbbb2222"))
    assert '"samples"' in report["spec"]


def test_a_report_of_runs_that_the_service_does_not_have_is_refused(offline):
    with pytest.raises(ValueError, match="`wandb sync` them"):
        write_report(list(offline.values()), title="t", figures=[], curves=[])


def test_a_path_outside_the_runs_files_is_refused():
    video = {"_type": "video-file", "path": "media/../../../secret", "caption": "c"}
    with pytest.raises(ValueError, match="outside the run's files"):
        list(video_paths({"_type": "videos", "videos": [video]}))
    assert list(video_paths({"videos": [{**video, "path": "/etc/passwd"}]})) == []


def test_names_lose_the_folders_that_all_share(offline):
    assert [record.name for record in renamed(offline.values())] == ["x", "v"]
