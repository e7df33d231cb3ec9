"""The guard: a bad step changes nothing and is recorded; too many of them end the run."""

import json
import math

import pytest
import torch

from cascade.callbacks.guard import Guard, total_norm
from cascade.callbacks.verdict import NotLearningError
from cascade.curves import read_curves


def weights(trainer):
    return {n: p.detach().clone() for n, p in trainer.lightning_module.named_parameters()}


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_step_without_a_finite_loss_changes_nothing_and_names_its_samples(
    tiny, tmp_path, accumulate
):
    stage = tiny.spoil(tiny.tiny_stage(), steps=[3])
    guard, seen = Guard(), []

    class Before(tiny.pl.Callback):
        def on_train_batch_end(self, trainer, *_):
            state = trainer.optimizers[0].state_dict()["state"]
            held = [v.clone() for one in state.values() for v in one.values()]
            seen.append((trainer.global_step, [*weights(trainer).values(), *held]))

    options = {"accumulate_grad_batches": accumulate, "limit_val_batches": 0}
    tiny.fit(stage, tmp_path, callbacks=[guard, Before()], **options)
    after = dict(seen)
    assert all(torch.equal(a, b) for a, b in zip(after[3], after[4], strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(after[4], after[5], strict=True))
    row = json.loads((tmp_path / "spikes.jsonl").read_text())
    assert row["step"] == 3
    assert row["why"] == "loss is nan"
    size = 4 * accumulate
    assert {key for key, _ in row["samples"]} == {f"clip-{3 * size + i}" for i in range(size)}
    losses = [loss for _, loss in row["samples"]]
    assert losses == sorted(losses, reverse=True)
    assert dict(read_curves(tmp_path)["train/skipped"])[5] == 1


def test_a_step_far_beyond_the_last_ones_is_skipped_and_a_noisy_loss_is_not(tiny, tmp_path):
    stage = tiny.spoil(tiny.tiny_stage(), steps=[6], factor=1000.0)
    guard = Guard(after=5, after_loss=5)
    tiny.fit(stage, tmp_path, callbacks=[guard], steps=8, limit_val_batches=0)
    assert guard.state_dict()["skipped"] == [6]
    noisy = Guard(after=5, after_loss=5)
    for value in torch.randn(400, generator=torch.Generator().manual_seed(0)).mul(1.5).exp():
        noisy._norm = 1.0
        assert noisy._judge(float(value)) is None
        noisy._losses.append(float(value))
        noisy._norms.append(1.0)
    assert "loss 1e+06 exceeds the limit" in noisy._judge(1e6)


@pytest.mark.parametrize(
    ("steps", "options", "why"),
    [
        ([0], {}, "no step has been accepted yet"),
        ([2, 3, 4], {"in_a_row": 3}, "3 steps in a row were skipped"),
        ([1, 3, 5], {"in_window": 3}, "3 of the last 200 steps were skipped"),
    ],
)
def test_too_many_bad_steps_end_the_run(tiny, tmp_path, steps, options, why):
    stage = tiny.spoil(tiny.tiny_stage(), steps=steps)
    with pytest.raises(NotLearningError, match=why) as error:
        tiny.fit(stage, tmp_path, callbacks=[Guard(**options)], limit_val_batches=0)
    assert f"step {steps[-1]} skipped: loss is nan; samples clip-" in str(error.value)


def test_a_resumed_guard_decides_as_an_uninterrupted_one(tiny, tmp_path):
    def run(folder, steps, **options):
        stage = tiny.spoil(tiny.tiny_stage(), steps=[6], factor=1000.0)
        guard = Guard(after=5, after_loss=5)
        data = tiny.Clips(batches=9)
        return guard, tiny.fit(
            stage, folder, callbacks=[guard], steps=steps, data=data, limit_val_batches=0, **options
        )

    whole, ended = run(tmp_path / "whole", 9)
    _, first = run(tmp_path / "legs", 4)
    first.save_checkpoint(tmp_path / "state")
    resumed, last = run(tmp_path / "legs", 9, checkpoint=tmp_path / "state")
    assert resumed.state_dict() == whole.state_dict()
    assert whole.state_dict()["skipped"] == [6]
    one, other = weights(ended), weights(last)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_the_norm_is_that_of_all_gradients_together():
    parts = [torch.full((3,), 2.0), torch.full((2, 2), 1.0)]
    assert float(total_norm(parts)) == pytest.approx(math.sqrt(3 * 4 + 4))
    assert float(total_norm([])) == 0
    assert math.isnan(float(total_norm([torch.tensor([float("nan")])])))


def test_inconsistent_settings_of_the_guard_are_refused():
    with pytest.raises(ValueError, match="after_loss <= after <= window"):
        Guard(after=300)
