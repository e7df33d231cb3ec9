"""A finished run's bundle at another averaged width."""

import json
import subprocess

import pytest
import torch
from safetensors.torch import load_file

from cascade.bundle import load_stage, read_card
from cascade.posthoc import write_snapshot
from cascade.reconstruct import write_bundle
from tests import commands


@pytest.fixture
def run(bundle_of, tmp_path):
    """A finished run whose averages are its weights times the width."""
    run = tmp_path / "run"
    bundle_of("demo/ssr1", run / "bundle")
    card = read_card(run / "bundle") | {"sigma_rel": 0.05, "figures": {"val/loss": 1.0}}
    (run / "bundle" / "card.json").write_text(json.dumps(card))
    weights = load_file(run / "bundle" / "model.safetensors")
    trained = {name: value for name, value in weights.items() if name.startswith("net.")}
    averages = {s: {n: s * v.float() for n, v in trained.items()} for s in (0.05, 0.10)}
    write_snapshot(run / "ema", card["steps"], averages)
    return run


def test_the_bundle_has_the_other_average_and_everything_else_of_the_run_s(run, tmp_path):
    to = write_bundle(run, 0.10, tmp_path / "wide")
    own, made = (load_file(folder / "model.safetensors") for folder in (run / "bundle", to))
    assert own.keys() == made.keys()
    for name, value in made.items():
        scaled = 0.10 * own[name].float() if name.startswith("net.") else own[name]
        torch.testing.assert_close(value, scaled)
    card = read_card(to)
    assert (card["sigma_rel"], card["steps"], card["figures"]) == (0.10, 1, {})
    assert card["profile_error"] < 1e-6
    load_stage(to)


def test_the_command_writes_beside_the_run_s_bundle_and_refuses_in_one_line(run):
    def command(*arguments: str) -> subprocess.CompletedProcess:
        return commands.run("cascade.reconstruct", f"run={run}", *arguments)

    done = command("width=0.1")
    assert done.returncode == 0, done.stderr
    assert (run / "bundle_0.1" / "model.safetensors").is_file()
    failed = command("width=0.28")
    assert failed.returncode == 1
    assert failed.stderr.startswith("error: ")
    assert "gives the profile of width 0.28 with an error of" in failed.stderr
    assert len(failed.stderr.splitlines()) == 1


def test_what_cannot_be_reconstructed_is_refused_with_the_way_out(run, tmp_path):
    with pytest.raises(ValueError, match="has no bundle; finish the run first"):
        write_bundle(tmp_path / "none", 0.10, tmp_path / "to")
    with pytest.raises(ValueError, match=r"bundle exists; remove it, or set another folder"):
        write_bundle(run, 0.10, run / "bundle")
    write_snapshot(run / "ema", 1, {0.05: {"net.other": torch.ones(3)}})
    with pytest.raises(ValueError, match=r"net\.other is \[3\] in the snapshots, missing in the"):
        write_bundle(run, 0.05, tmp_path / "to")
