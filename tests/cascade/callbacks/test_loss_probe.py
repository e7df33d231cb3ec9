"""The probe's loss tells whether the weights that were read are those that were written."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch

from cascade.callbacks.loss_probe import Probe, ProbeError
from cascade.checkpoint.origin import device, versions
from tests.cascade.checkpoint.test_checkpoint_folder import manifest

TOLERANCES = {"cpu": 1e-5, "cuda": 1e-3, "reduced": 2e-2}


class Stage(pl.LightningModule):
    """A weight and a dropout: its loss is the weight, where it is evaluated."""

    def __init__(self):
        super().__init__()
        self.name = "base"
        self.weight = torch.nn.Parameter(torch.tensor(0.3))
        self.frozen = torch.nn.Dropout(0.5).eval()
        self.dropout = torch.nn.Dropout(0.5)

    def losses(self, batch, *, purpose):
        assert purpose == "probe"
        assert not torch.is_grad_enabled()
        return SimpleNamespace(loss=self.dropout(self.weight * batch["x"]))


def trainer(precision="32-true"):
    loader = type("Loader", (list,), {"close": lambda self: None})
    data = SimpleNamespace(val_loader=lambda **_: loader([{"x": torch.ones(4)}]))
    known = {
        "__init__": lambda self: None,
        "global_step": 5,
        "precision": precision,
        "world_size": 1,
        "strategy": SimpleNamespace(batch_to_device=lambda batch: batch),
        "precision_plugin": SimpleNamespace(forward_context=torch.no_grad),
        "datamodule": data,
        "state": SimpleNamespace(fn="fit"),
    }
    return type("Trainer", (pl.Trainer,), known)()


def saved(loss, **values):
    here = {"device": device(torch.device("cpu")), "versions": versions()}
    here |= {"strategy": "SimpleNamespace", "probe": {"loss": loss, "samples": 4}}
    return replace(manifest(5), **(here | values))


def resume(then, precision="32-true"):
    probe, stage = Probe(samples=4, tolerances=TOLERANCES), Stage()
    probe.expect(then)
    probe.on_train_start(trainer(precision), stage)
    return probe


def test_the_same_weights_on_the_same_cpu_give_the_same_bits_or_an_error():
    loss = float(torch.tensor(0.3))
    assert resume(saved(loss)).times == 1
    with pytest.raises(ProbeError, match=r"step 5 the probe's loss was .* difference exceeds 0"):
        resume(saved(loss * (1 + 1e-9)))


@pytest.mark.parametrize(
    ("values", "precision", "allowed"),
    [
        ({"device": "another"}, "32-true", 1e-5),
        ({"world": 2}, "32-true", 1e-5),
        ({"versions": {"torch": "1"}}, "32-true", 1e-5),
        ({"precision": "bf16-mixed"}, "bf16-mixed", 0.0),
        ({"precision": "bf16-mixed", "device": "another"}, "bf16-mixed", 2e-2),
    ],
)
def test_a_changed_environment_is_named_and_has_its_tolerance(values, precision, allowed):
    loss = float(torch.tensor(0.3))
    resume(saved(loss * (1 + 0.9 * allowed), **values), precision)
    with pytest.raises(ProbeError, match=f"difference exceeds {allowed:g}"):
        resume(saved(loss * (1 + 1.2 * allowed + 1e-9), **values), precision)


def test_measuring_leaves_every_part_in_its_mode_and_draws_nothing():
    probe, stage = Probe(samples=4, tolerances=TOLERANCES), Stage()
    before = torch.get_rng_state()
    assert probe.measure(trainer(), stage) == pytest.approx(0.3)
    assert torch.equal(before, torch.get_rng_state())
    assert (stage.training, stage.dropout.training, stage.frozen.training) == (True, True, False)


def test_a_checkpoint_without_a_probe_or_with_another_is_not_checked():
    assert resume(saved(1.0, probe=None)).times == 0
    assert resume(saved(1.0, probe={"loss": 1.0, "samples": 2})).times == 0


def test_a_probe_needs_its_tolerances():
    with pytest.raises(ValueError, match="cpu, cuda and reduced"):
        Probe(samples=4, tolerances={"cpu": 0.0})
