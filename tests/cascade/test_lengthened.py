"""A finished run with more steps goes on from its last one, by the schedule of all steps."""

import json

import pytest
from hydra import compose, initialize_config_dir

from cascade.bundle import read_card
from cascade.checkpoint.run_config import ConfigChangedError
from cascade.curves import read_curves
from cascade.entry import CONF
from cascade.launch.local_launcher import LocalRun, outcome
from cascade.shrink import resolved
from cascade.train import train
from data.worlds.world_shards import make_shapes

SMALL = [
    *("stage=demo/base", "trainer=cpu", "trainer.enable_progress_bar=false", "logger=csv"),
    *("stage.net.width=64", "stage.net.depth=1", "stage.text.width=64", "stage.train.val_videos=1"),
    *("stage.train.global_batch=2", "stage.train.lr_factor.warmup_steps=0", "data.make=null"),
    *("trainer.log_every_n_steps=1", "trainer.val_check_interval=2", "data.validation.samples=2"),
    *("~callbacks.samples", "~callbacks.worth", "~callbacks.start", "data.loading.num_workers=0"),
]


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    make_shapes(folder, clips=8, shard_size=8)
    return folder


def composed(run, shards, *overrides):
    places = [f"data.shards={shards}", f"paths.runs={run}", f"logger.csv.save_dir={run}"]
    with initialize_config_dir(version_base="1.3", config_dir=CONF):
        return compose("train", overrides=[*SMALL, *places, *overrides])


def trained(run, shards, *overrides):
    """Train in a folder, as the command line does."""
    train(composed(run, shards, *overrides), run)
    return read_curves(run)


def test_steps_alone_may_grow_and_the_rest_is_kept(tmp_path, shards, caplog):
    caplog.set_level("INFO")
    short = trained(tmp_path, shards, "stage.train.steps=2")
    for shorter_or_other in (["stage.train.steps=1"], ["stage.train.steps=4", "seed=1"]):
        with pytest.raises(ConfigChangedError, match="lengthened by a larger stage.train.steps al"):
            trained(tmp_path, shards, *shorter_or_other)
    longer = trained(tmp_path, shards, "stage.train.steps=4")
    assert longer["train/loss"][:2] == short["train/loss"]
    assert [step for step, _ in longer["train/loss"]] == [0, 1, 2, 3]
    rates = dict(longer["train/lr"])
    assert rates[2] / rates[0] == pytest.approx(0.5)  # by the schedule of 4 steps
    assert read_card(tmp_path / "bundle")["steps"] == 4
    assert read_card(tmp_path / "bundle_at_2")["steps"] == 2
    said = " ".join(caplog.messages)
    assert "lengthened from 2 to 4 steps" in said
    assert "factor is 0.5 there by the schedule of 4 steps, and was 0 by that of 2" in said


def test_a_run_that_cannot_be_lengthened_stays_finished(tmp_path, shards):
    trained(tmp_path, shards, "stage.train.steps=2")
    longer = ["stage.train.steps=4", "data.shards=/nowhere"]
    with pytest.raises(ValueError, match="/nowhere"):
        trained(tmp_path, shards, *longer)
    assert read_card(tmp_path / "bundle")["steps"] == 2
    assert json.loads((tmp_path / "config.json").read_bytes())["stage"]["train"]["steps"] == 2
    trained(tmp_path, shards, "stage.train.steps=2")  # finished already
    config = resolved(composed(tmp_path, shards, *longer))
    job = LocalRun(overrides=[], folder=tmp_path, config=config, code=1)
    assert not job.done
    assert outcome(job).status.name == "FAILED"
