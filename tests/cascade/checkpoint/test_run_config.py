"""A checkpoint of another stage, width or config is refused, with both values."""

import pytest
import torch

from cascade.checkpoint.checkpoint_folder import Checkpoint, CheckpointError
from cascade.checkpoint.run_config import (
    ConfigChangedError,
    check_config,
    check_fits,
    keep_config,
    shapes,
)
from tests.cascade.checkpoint.test_checkpoint_folder import manifest

CONFIG = {"stage": {"width": 8}, "seed": 0, "data": {"shards": "a", "loading": {"num_workers": 2}}}
CONFIG |= {"trainer": {"precision": "32-true", "devices": 1}, "name": "one"}


class Stage(torch.nn.Module):
    """The part of a stage that its shapes need; its network is built late."""

    def __init__(self, name="base", width=2):
        super().__init__()
        self.name, self.width = name, width
        self.net = None

    def new_net(self):
        return torch.nn.Linear(self.width, 1, bias=False)


def checkpoint(tmp_path, **values):
    saved = manifest(5, shapes={"net.weight": [1, 2]}, config=CONFIG, **values)
    return Checkpoint(tmp_path / "00000005", saved)


def test_a_matching_checkpoint_is_resumed_and_free_keys_may_change(tmp_path):
    free = CONFIG | {"name": "two", "data": {"shards": "a", "loading": {"num_workers": 0}}}
    free |= {"trainer": {"precision": "32-true", "devices": 4}}
    check_fits(checkpoint(tmp_path), Stage(), free, tmp_path)


def test_another_stage_width_or_config_is_refused_with_both_values(tmp_path):
    saved = checkpoint(tmp_path)
    with pytest.raises(CheckpointError, match="is of stage base, but this run trains tsr1"):
        check_fits(saved, Stage("tsr1"), CONFIG, tmp_path)
    with pytest.raises(
        CheckpointError, match=r"net\.weight: \[1, 2\] in .* \[1, 3\] in the network"
    ):
        check_fits(saved, Stage(width=3), CONFIG, tmp_path)
    with pytest.raises(ConfigChangedError, match=r"stage\.width: 8 → 16\n.*another NAME"):
        check_fits(saved, Stage(), CONFIG | {"stage": {"width": 16}}, tmp_path)
    bf16 = CONFIG | {"trainer": {"precision": "bf16-mixed"}}
    with pytest.raises(ConfigChangedError, match="precision: '32-true' → 'bf16-mixed'"):
        check_fits(saved, Stage(), bf16, tmp_path)


SETS = {"mine": {"shards": "a", "weight": 1.0}, "theirs": {"shards": ["b", "c"], "weight": 2.0}}


@pytest.mark.parametrize(
    ("old", "new", "refused"),
    [
        ({"shards": "a"}, {"shards": ["/moved/a"]}, ""),
        ({"shards": SETS}, {"shards": SETS | {"mine": {"shards": "b", "weight": 1.0}}}, ""),
        ({"shards": SETS}, {"shards": SETS | {"mine": {"shards": "a", "weight": 3.0}}}, "weight"),
        ({"shards": SETS}, {"shards": {"mine": SETS["mine"]}}, "theirs"),
        ({"validation": {"shards": "v"}}, {"validation": {"shards": "w"}}, ""),
        ({"validation": {"shards": "v"}}, {"validation": {"shards": None}}, "validation"),
    ],
)
def test_shards_are_known_by_the_fingerprint_of_checkpoints_not_by_their_path(
    tmp_path, old, new, refused
):
    old, new = CONFIG | {"data": old}, CONFIG | {"data": new}
    keep_config(tmp_path, old)
    (tmp_path / "bundle").mkdir()
    with pytest.raises(ConfigChangedError):  # without a checkpoint nothing else tells them apart
        check_config(tmp_path, new)
    (tmp_path / "checkpoints" / "00000001").mkdir(parents=True)
    if refused:
        with pytest.raises(ConfigChangedError, match=refused):
            check_config(tmp_path, new)
    else:
        check_config(tmp_path, new)


def test_callbacks_that_affect_the_numbers_are_fixed_and_others_are_free(tmp_path):
    def config(**callbacks):
        known = {"guard": {"factor": 10.0}, "ema": {"sigma_rels": [0.05]}, "samples": {"count": 4}}
        return CONFIG | {"callbacks": known | callbacks}

    keep_config(tmp_path, config())
    (tmp_path / "checkpoints" / "00000001").mkdir(parents=True)
    keep_config(tmp_path, config(samples={"count": 8}, worth={"clips": 2}))
    with pytest.raises(ConfigChangedError, match=r"callbacks\.guard\.factor: 10\.0 → 5\.0"):
        keep_config(tmp_path, config(guard={"factor": 5.0}))
    with pytest.raises(
        ConfigChangedError, match=r"callbacks\.ema\.sigma_rels: \[0\.05\] → \[0\.1\]"
    ):
        keep_config(tmp_path, config(ema={"sigma_rels": [0.1]}))
    without = config()
    del without["callbacks"]["guard"]
    with pytest.raises(ConfigChangedError, match=r"callbacks\.guard: .* → 'nothing'"):
        keep_config(tmp_path, without)


def test_shapes_are_the_same_before_and_after_the_network_is_built():
    early = Stage()
    late = Stage()
    late.net = late.new_net()
    assert shapes(early) == shapes(late) == {"net.weight": [1, 2]}


def test_a_config_may_change_until_something_is_trained(tmp_path):
    keep_config(tmp_path, CONFIG)
    (tmp_path / "metrics").mkdir()
    keep_config(tmp_path, CONFIG)
    assert (tmp_path / "metrics").is_dir()
    keep_config(tmp_path, CONFIG | {"seed": 1})
    # The logs of the first config were moved away.
    assert not (tmp_path / "metrics").exists()
    assert {path.name for path in tmp_path.glob("before/0/*")} == {"metrics", "config.json"}
    (tmp_path / "checkpoints" / "00000001").mkdir(parents=True)
    with pytest.raises(ConfigChangedError, match="seed: 1 → 0"):
        keep_config(tmp_path, CONFIG)


def test_checking_a_config_writes_nothing(tmp_path):
    check_config(tmp_path, CONFIG)
    assert not list(tmp_path.iterdir())
    keep_config(tmp_path, CONFIG)
    check_config(tmp_path, CONFIG | {"seed": 1})  # nothing was trained with it yet
    (tmp_path / "bundle").mkdir()
    written = (tmp_path / "config.json").read_text()
    with pytest.raises(ConfigChangedError, match="seed: 0 → 1"):
        check_config(tmp_path, CONFIG | {"seed": 1})
    check_config(tmp_path, CONFIG | {"name": "two"})
    assert (tmp_path / "config.json").read_text() == written
