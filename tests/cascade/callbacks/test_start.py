"""Before the first step: faults are found and named, and a sound stage is left unchanged."""

from dataclasses import replace

import pytest
import torch

from cascade.callbacks.start import (
    Start,
    check_conditions,
    check_round_trip,
    zero_weights_randomised,
)
from cascade.callbacks.verdict import NotLearningError
from cascade.text.encoder import TextFeatures

CHOICES = ["demo/base", "demo/tsr1", "demo/ssr1"]


def found(stage, batch):
    with torch.no_grad():
        lines = [*check_round_trip(stage, batch, 20.0)]
        with zero_weights_randomised(stage):
            return [*lines, *check_conditions(stage, batch)]


@pytest.mark.parametrize("choice", CHOICES)
def test_a_sound_stage_passes_and_nothing_of_it_changes(tiny, choice):
    stage = tiny.tiny_stage(choice)
    before = {name: value.clone() for name, value in stage.state_dict().items()}
    random = torch.get_rng_state()
    assert found(stage, tiny.clips([0, 1])) == []
    assert found(stage, tiny.clips([0])) == []
    assert all(torch.equal(before[name], value) for name, value in stage.state_dict().items())
    assert torch.equal(random, torch.get_rng_state())


def test_a_sound_stage_of_one_frame_and_clips_without_captions_pass(tiny):
    """No way to prompt gives a single frame; some captions may be empty if others are not."""
    stage = tiny.tiny_stage("demo/ssr1", target={"frames": 1})
    assert found(stage, tiny.clips([0, 1], (1, *tiny.SHAPE[1:]))) == []
    stage = tiny.tiny_stage()
    assert found(stage, {**tiny.clips([0, 1]), "caption": ["", "a red circle"]}) == []
    assert any(
        "empty captions" in one for one in found(stage, {**tiny.clips([0]), "caption": [""]})
    )


def _cut_scalar(stage, place):
    inner = stage.net.condition.forward

    def forward(logsnr, scalars, pooled):
        without = scalars.clone()
        without[:, place] = 0
        return inner(logsnr, without, pooled)

    stage.net.condition.forward = forward


def _cut_text(stage):
    encode = stage.text.forward

    def forward(captions, known=None):
        tokens, mask = encode([""] * len(captions))
        return TextFeatures(tokens, mask)

    stage.text.forward = forward


def _cut(stage, **changes):
    inputs = stage.inputs
    stage.inputs = lambda z, cond: inputs(
        z, replace(cond, **{name: change(getattr(cond, name)) for name, change in changes.items()})
    )


def _cut_given(stage):
    _cut(stage, given=lambda given: given * 0, mask=lambda mask: mask * 0)


FAULTS = {
    "text: has no effect on the loss": ("demo/base", _cut_text),
    "low: has no effect": ("demo/ssr1", lambda s: _cut(s, low=lambda low: low * 0)),
    "low: must resemble the clip": (
        "demo/ssr1",
        lambda s: setattr(s.kind, "expand", lambda low: torch.zeros(low.shape[0], 3, 4, 16, 16)),
    ),
    "given: has no effect": ("demo/tsr1", _cut_given),
    "fps: has no effect": ("demo/base", lambda s: _cut_scalar(s, s.kind.scalars.index("fps"))),
    "augment: has no effect": ("demo/ssr1", lambda s: _cut_scalar(s, 0)),
    "normalisation: pixels must lie in": (
        "demo/base",
        lambda s: setattr(s, "clip", lambda v: v.float()),
    ),
    "normalisation: a round trip": (
        "demo/base",
        lambda s: setattr(s, "clip", lambda v: v.float() / 255),
    ),
    "codec: a clip's round trip has": (
        "demo/base",
        lambda s: setattr(s.codec, "decode", lambda z: 0.99 * z),
    ),
    "codec: the standard deviation of latents must be about 1": (
        "demo/base",
        lambda s: (
            setattr(s.codec, "encode", lambda x: 20 * x),
            setattr(s.codec, "decode", lambda z: z / 20),
        ),
    ),
    "the loss is not finite before the first step": (
        "demo/base",
        lambda s: s.net.position.weight.data.fill_(float("nan")),
    ),
}


@pytest.mark.parametrize("message", list(FAULTS))
def test_every_fault_is_found_and_named(tiny, message):
    choice, plant = FAULTS[message]
    stage = tiny.tiny_stage(choice)
    plant(stage)
    lines = found(stage, tiny.clips([0, 1]))
    assert any(line.startswith(message) for line in lines), lines


def test_a_run_ends_before_its_first_step_with_all_that_is_wrong(tiny, tmp_path):
    stage = tiny.tiny_stage()
    _cut_text(stage)
    _cut_given(stage)
    with pytest.raises(NotLearningError) as error:
        tiny.fit(stage, tmp_path, callbacks=[Start()], limit_val_batches=0)
    assert "base failed the checks before the first step:\n  - text: " in str(error.value)
    assert "\n  - given: has no effect" in str(error.value)
    assert stage.trainer.global_step == 0


def test_a_plan_without_a_batch_is_an_error(tiny, tmp_path):
    data = tiny.Clips(batches=0)
    data.pool = type("Pool", (), {"rows": []})()
    with pytest.raises(NotLearningError, match="the plan has no batch"):
        tiny.fit(tiny.tiny_stage(), tmp_path, callbacks=[Start()], data=data)
