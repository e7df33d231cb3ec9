"""The command that joins runs in a cascade bundle, and the names of runs."""

import json
import sys

import pytest

from cascade.bundle import BundleError
from cascade.chain import runs_of
from cascade.evaluate import check_world
from cascade.join import main
from cascade.pipeline import Cascade

CHAIN = {"name": "demo", "stages": ["base", "tsr1", "ssr1"]}


@pytest.fixture(scope="module")
def runs(tmp_path_factory, bundle_of):
    runs = tmp_path_factory.mktemp("runs")
    for stage in CHAIN["stages"]:
        bundle_of(f"demo/{stage}", runs / "demo" / stage / "default" / "bundle")
    bundle_of("demo/base", runs / "demo" / "base" / "longer" / "bundle")
    return runs


def joined(runs, *overrides, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["command", f"paths.runs={runs}", *overrides])
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    main()


def test_the_stages_of_a_cascade_are_joined_and_sampled(runs, tmp_path, monkeypatch):
    joined(runs, f"out={tmp_path}/mine", monkeypatch=monkeypatch)
    cascade = Cascade.from_pretrained(tmp_path / "mine")
    assert [stage.name for stage in cascade.stages] == CHAIN["stages"]
    joined(runs, f"out={tmp_path}/mine", monkeypatch=monkeypatch)  # again, over itself


def test_another_folder_is_not_replaced(runs, tmp_path, monkeypatch):
    (tmp_path / "kept").touch()
    with pytest.raises(SystemExit, match="exists and is no cascade bundle, so it is not replaced"):
        joined(runs, f"out={tmp_path}", monkeypatch=monkeypatch)
    assert (tmp_path / "kept").exists()


def test_a_folder_of_runs_is_refused_with_the_command_that_joins_them(runs):
    with pytest.raises(BundleError, match=r"it has no model.safetensors.* make bundle CASCADE=…"):
        Cascade.from_pretrained(runs / "demo")


def test_a_name_that_only_some_stages_have_falls_back_and_says_so(runs, caplog):
    paths, _ = runs_of(runs, CHAIN, "longer")
    assert [path.parent.name for path in paths] == ["longer", "default", "default"]
    assert "no run longer of tsr1, ssr1: the run default is used" in caplog.text


@pytest.mark.parametrize("run", ["nobody", {"tsr1": "longer"}])
def test_a_name_that_no_stage_has_is_refused(runs, run):
    with pytest.raises(BundleError, match=r"is not trained: .* make train STAGE="):
        runs_of(runs, CHAIN, run)


@pytest.mark.parametrize(
    ("found", "asked", "refused"),
    [("make_shapes", "make_shapes", False), (None, "make_shapes", True), (None, None, False)],
)
def test_an_evaluation_of_another_world_is_refused(tmp_path, found, asked, refused):
    (tmp_path / "card.json").write_text(json.dumps({"world": found}))
    if not refused:
        check_world([tmp_path], asked)
        return
    with pytest.raises(ValueError, match="no world made, but the prompts are of the world make_s"):
        check_world([tmp_path], asked)
