"""Training for real, in processes of its own: resumed, killed, spread over two processes."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import hydra
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException, InstantiationException
from omegaconf import OmegaConf
from safetensors.torch import load_file

import cascade.train
from cascade.bundle import load_stage, read_card
from cascade.checkpoint.run_config import differences, keep_config
from cascade.curves import read_curves
from cascade.entry import CONF, check_choices, check_name
from data.worlds.world_shards import make_shapes
from tests import commands
from tests.commands import Command

STEPS = 8


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    make_shapes(folder, clips=24, shard_size=12)
    return folder


def command_in(runs: Path, shards: Path):
    """The command line of a small run named `name` below `runs`, with further overrides."""

    def make(name: str, *overrides: str, stage: str = "demo/base") -> list[str]:
        return [
            *("cascade.train", f"stage={stage}", "debug=smoke"),
            *(f"name={name}", f"paths.runs={runs}", f"data.shards={shards}", "data.make=null"),
            *("logger=csv", "trainer.enable_progress_bar=false"),
            *("shrink.steps=8", "shrink.batch=4", "trainer.val_check_interval=8"),
            *("callbacks.samples.every_n_steps=8", *overrides),
        ]

    return make


@pytest.fixture
def command(tmp_path, shards):
    return command_in(tmp_path, shards)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, shards) -> Path:
    """The folder of a run that nothing broke."""
    runs = tmp_path_factory.mktemp("whole")
    run(command_in(runs, shards)("whole"))
    return runs / "demo/base/whole"


def run(command, check=True):
    done = commands.run(*command)
    if check:
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done


def losses(folder: Path):
    return read_curves(folder)["train/loss"]


@pytest.mark.slow
def test_a_killed_run_goes_on_as_if_it_had_not_been(command, whole, tmp_path):
    process = Command(*command("killed"))
    folder = tmp_path / "demo/base/killed"
    deadline = time.monotonic() + 120
    while not list(folder.glob("checkpoints/*3")) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (folder / "bundle").exists()
    run(command("killed"))
    assert len(losses(whole)) == STEPS
    found, wanted = dict(losses(folder)), dict(losses(whole))
    assert found == wanted  # to the last bit, and every row
    one, other = (load_file(f / "bundle/model.safetensors") for f in (whole, folder))
    assert all(torch.equal(one[name], other[name]) for name in one)
    # Without its bundle, as a kill at the very end leaves it: the same one is made again.
    shutil.rmtree(folder / "bundle")
    run(command("killed"))
    again = load_file(folder / "bundle/model.safetensors")
    assert all(torch.equal(one[name], again[name]) for name in one)
    # Once more: it is finished, and says so.
    assert "to train another run, choose another NAME=…" in run(command("killed")).stdout


@pytest.mark.slow
def test_ctrl_c_saves_at_the_step_and_the_run_resumes_exactly(command, whole, tmp_path):
    often = command("asked", "callbacks.checkpoint.every_n_steps=1000")
    process = Command(*often)
    folder = tmp_path / "demo/base/asked"
    deadline = time.monotonic() + 120
    while not list(folder.glob("metrics/version_0/*.csv")) and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    if not (folder / "bundle").exists():  # a fast machine may have finished first
        assert "run the same command to resume" in said
        assert len(list(folder.glob("checkpoints/*"))) == 1
        run(often)
    assert losses(folder) == losses(whole)


@pytest.mark.slow
def test_two_processes_equal_one(command, whole, tmp_path):
    run(command("two", "trainer.devices=2", "+trainer.strategy=ddp"))
    one, two = losses(whole), losses(tmp_path / "demo/base/two")
    assert [step for step, _ in one] == [step for step, _ in two] == list(range(STEPS))
    for (_, a), (_, b) in zip(one, two, strict=True):
        assert abs(a - b) < 1e-5


@pytest.mark.slow
def test_two_processes_validate_together_and_legs_advance(command, tmp_path):
    ranks = ["trainer.devices=2", "+trainer.strategy=ddp", "data.validation.share=0.3"]
    two = command("two", *ranks, "data.validation.samples=4", stage="demo/ssr1")
    run([*two, "callbacks.interrupt.leg_s=1e-3"])
    folder = tmp_path / "demo/ssr1/two"
    assert [path.name for path in folder.glob("checkpoints/*")] == ["00000001"]
    run(two)  # a rank without a figure to share would wait for ever
    assert (folder / "bundle").is_dir()
    assert "val/made/psnr" in read_curves(folder)


@pytest.mark.slow
def test_accumulation_equals_a_larger_batch(command, whole, tmp_path):
    run(command("halves", "trainer.accumulate_grad_batches=2"))
    one, two = (
        load_file(folder / "bundle/model.safetensors")
        for folder in (whole, tmp_path / "demo/base/halves")
    )
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-4, atol=3e-5)


@pytest.mark.slow
def test_a_changed_config_is_refused_and_weights_can_be_taken_over(command, whole, tmp_path):
    shutil.copytree(whole, tmp_path / "demo/base/whole")
    changed = command("whole", "stage.train.text_dropout=0.5", "seed=1")
    refused = run(changed, check=False)
    assert refused.returncode != 0
    assert "stage.train.text_dropout: 0.1 → 0.5" in refused.stderr
    assert "seed: 0 → 1" in refused.stderr
    assert "init_from=" in refused.stderr
    bundle = whole / "bundle"
    taken = command("second", f"init_from={bundle}", "stage.train.text_dropout=0.5")
    run(taken)
    assert losses(tmp_path / "demo/base/second")[0] != losses(whole)[0]
    wide = run(command("third", f"init_from={bundle}", stage="demo/ssr1"), check=False)
    assert wide.returncode != 0
    assert "weights do not fit" in wide.stderr


@pytest.mark.slow
def test_a_run_leaves_figures_samples_and_a_bundle_that_samples(command, tmp_path):
    run(command("ssr", stage="demo/ssr1"))
    folder = tmp_path / "demo/ssr1/ssr"
    curves = read_curves(folder)
    assert {"train/loss", "train/lr", "val/loss", "val/true/psnr", "val/made/plain_ssim"} <= {
        *curves
    }
    assert any(name.startswith("train/loss_logsnr/") for name in curves)
    captions = json.loads((folder / "samples/00000008/captions.json").read_text())
    assert [(folder / "samples/00000008" / name).stat().st_size > 500 for name in captions]
    card = read_card(folder / "bundle")
    assert card["steps"] == STEPS
    assert card["data"]
    assert card["figures"]["val/loss"] > 0
    stage = load_stage(folder / "bundle")
    x = torch.zeros(1, 3, *stage.low_grid.shape)
    assert stage.sample(["a"], grid=stage.target, seeds=[0], low=x).isfinite().all()


@pytest.mark.slow
def test_wandb_runs_offline_with_csv_beside_it(command, tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    run([part for part in command("wb") if part != "logger=csv"])
    folder = tmp_path / "demo/base/wb"
    files = list(folder.glob("wandb/offline-run-*/run-*.wandb"))
    assert len(files) == 1
    assert files[0].stat().st_size > 1000
    assert list(folder.glob("wandb/offline-run-*/files/media/videos/samples_*.mp4"))
    assert len(losses(folder)) == STEPS


@pytest.mark.slow
def test_a_run_goes_on_without_the_service_of_wandb(command, tmp_path):
    """Slurm's SIGTERM reaches every process of a job, and ends the service before the run."""
    online = [part for part in command("lost", "shrink.steps=60") if part != "logger=csv"]
    process = Command(*online, merged=True)
    folder = tmp_path / "demo/base/lost"
    deadline = time.monotonic() + 120
    while not list(folder.glob("metrics/version_0/*.csv")) and time.monotonic() < deadline:
        time.sleep(0.005)
    services = subprocess.run(
        ["pgrep", "-f", f"wandb-core.*--pid {process.pid}"], capture_output=True, text=True
    ).stdout.split()
    assert services
    os.kill(int(services[0]), signal.SIGTERM)
    said, _ = process.communicate(timeout=200)
    assert process.returncode == 0, said[-3000:]
    assert "W&B logging failed" in said
    assert len(losses(folder)) == 60
    assert (folder / "bundle").is_dir()


def test_a_stage_that_there_is_not_is_refused_in_a_line(tmp_path):
    words = ("cascade.train", "stage=demo/nothing", "logger=csv", f"paths.runs={tmp_path}")
    done = run(words, check=False)
    assert done.returncode != 0
    assert done.stderr.startswith("stage=demo/nothing: no such stage; there are bench/l, ")


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("stage=nowhere/base", "nowhere/base: no such stage; there are .*demo/base"),
        ("data=nothing", "no such data; there are .*shapes"),
        ("stage=demo/base,demo/tsr9", "demo/tsr9: no such stage"),
    ],
)
def test_a_choice_that_there_is_not_is_refused(argument, message):
    check_choices(["stage=demo/base", "data=shapes", "cluster=local"])
    with pytest.raises(SystemExit, match=message):
        check_choices([argument])


@pytest.mark.parametrize(
    ("override", "message"),
    [("stage.train.step=3", "stage.train.step"), ("+stage.colour=red", "colour")],
)
def test_an_unknown_key_is_an_error(override, message, monkeypatch, tmp_path):
    overrides = ["stage=demo/base", override, f"paths.runs={tmp_path}", "logger=csv"]
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    monkeypatch.setattr(sys, "argv", ["cascade.train", *overrides])
    with pytest.raises((HydraException, InstantiationException), match=message):
        cascade.train.main()


@pytest.mark.parametrize(
    "name", ["", "../x", "a b", "a/../b", "$(x)", "it's", "/abs", "a[0]", "a/"]
)
def test_a_name_that_is_no_folder_of_its_own_is_refused(name):
    check_name("lr/muon_lr=0.01,target=x+y")
    with pytest.raises(ValueError, match="choose another NAME"):
        check_name(name)


@pytest.mark.parametrize("name", [1, 1e3, float("nan"), None, True])
def test_a_name_that_is_read_as_no_text_is_refused(name):
    with pytest.raises(ValueError, match="put it in quotes"):
        check_name(name)


def test_a_name_is_refused_before_it_has_a_folder():
    check_choices(["name='1'", "name=lr/x=0.1", "name=wide", "name=${oc.env:HOME}", "name=[a"])
    check_choices(["--multirun", "name='a','b'"])
    for argument in ("name=1", "name=null", "name='../out'"):
        with pytest.raises(SystemExit, match="name="):
            check_choices([argument])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("~callbacks.ema", "callbacks.ema is required"),
        ("~callbacks.checkpoint", "callbacks.checkpoint is required"),
        ("trainer.accumulate_grad_batches=0", "accumulate_grad_batches must be above 0, got 0"),
        ("trainer.val_check_interval=0", "val_check_interval must be above 0, got 0"),
        ("trainer.log_every_n_steps=-1", "log_every_n_steps must be above 0, got -1"),
        ("callbacks.samples.every_n_steps=0", "every_n_steps and count must be at least 1"),
        ("callbacks.watchdog.hang_s=nan", "hang_s must be positive and finite, or null, got nan"),
        ("+stage.train.lr_factor.final=-5", "final must be a factor from 0 to 1, got -5"),
    ],
)
def test_settings_that_train_nothing_are_refused_before_the_first_step(override, message, tmp_path):
    with initialize_config_dir(version_base="1.3", config_dir=CONF):
        cfg = compose("train", overrides=["stage=demo/base", "debug=smoke", "logger=[]", override])
    config = {
        name: OmegaConf.to_container(cfg[name], resolve=True)
        for name in ("stage", "callbacks", "trainer")
    }

    def begin():
        stage = hydra.utils.instantiate(config["stage"], _convert_="all")
        stage.configure_model()
        stage.recipe.optimizer(stage.net)
        cascade.train.open_trainer(config | {"logger": {}}, tmp_path)

    with pytest.raises((ValueError, InstantiationException), match=message):
        begin()


def test_a_damaged_config_is_named_with_the_way_out(tmp_path):
    (tmp_path / "config.json").write_text('{"step": 1')
    with pytest.raises(
        ValueError, match=r"config\.json is damaged: .*; restore it from .* manifest"
    ):
        keep_config(tmp_path, {"data": {}})


def test_differences_name_every_key():
    old = {"a": 1, "b": {"c": [1], "d": 2}}
    assert differences(old, {"a": 1, "b": {"c": [1], "d": 2}}) == []
    assert differences(old, {"a": 2, "b": {"c": [1], "e": 2}}) == [
        "a: 1 → 2",
        "b.d: 2 → 'nothing'",
        "b.e: 'nothing' → 2",
    ]
