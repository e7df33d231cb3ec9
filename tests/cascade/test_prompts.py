"""Prompts: encoded once per distinct encoder, whatever the number of stages; or given encoded."""

import hydra
import pytest
import torch

from cascade.pipeline import Cascade
from cascade.shrink import shrink
from cascade.text.encoder import TextFeatures
from cascade.text.t5 import T5Text
from tests.composed import stage_config

SEVEN = ["base", "tsr1", "ssr1", "ssr2", "tsr2", "tsr3", "ssr3"]
GRIDS = {  # tiny, and chained as the published ones are
    "base": (2, 8, 3),
    "tsr1": (4, 8, 6),
    "ssr1": (4, 16, 6),
    "ssr2": (4, 32, 6),
    "tsr2": (8, 32, 12),
    "tsr3": (16, 32, 24),
    "ssr3": (16, 64, 24),
}


def stage_of(name, folder, **text):
    small = shrink(stage_config(f"imagen_video/{name}"))
    frames, side, fps = GRIDS[name]
    small["target"].update(frames=frames, height=side, width=side, fps=fps)
    if name == "ssr2":
        small["kind"]["factor"] = 2
    if name == "ssr3":
        small["kind"]["factor"] = 2
    small["net"] = {
        "_target_": "cascade.nn.hourglass.Hourglass",
        "_partial_": True,
        "widths": [32],
        "depths": [1],
        "head_width": 32,
    }
    small["text"] = {
        "_target_": "cascade.text.t5.T5Text",
        "name": str(folder),
        "width": 16,
        "dtype": "float32",
        **text,
    }
    stage = hydra.utils.instantiate(small, _convert_="all")
    stage.configure_model()
    for parameter in stage.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.05)
    return stage


@pytest.fixture
def counted(monkeypatch):
    """The captions that were encoded, and the encoders that were loaded."""
    encoded, loaded = [], []
    encode, load = T5Text.encode, T5Text._load

    def counting_load(self, kind, **options):
        if kind == "T5EncoderModel":
            loaded.append(kind)
        return load(self, kind, **options)

    monkeypatch.setattr(T5Text, "encode", lambda s, ids: (encoded.extend(ids), encode(s, ids))[1])
    monkeypatch.setattr(T5Text, "_load", counting_load)
    return encoded, loaded


def call(cascade, *prompts, **options):
    generators = [torch.Generator().manual_seed(i) for i in range(options.pop("count", 1))]
    return cascade(*prompts, generator=generators, num_inference_steps=1, **options).videos


def test_seven_stages_load_their_encoder_once_and_encode_each_prompt_once(tiny_t5, counted):
    encoded, loaded = counted
    cascade = Cascade([stage_of(name, tiny_t5) for name in SEVEN])
    video = call(cascade, ["a", "b", "a"], "worse", count=3)
    assert video.shape == (3, 3, 16, 64, 64)
    assert len(encoded) == 3  # "a", "b" and "worse"
    assert len(loaded) == 1


def test_encoders_that_differ_are_kept_apart(tiny_t5, counted):
    encoded, loaded = counted
    stages = [stage_of("base", tiny_t5), stage_of("tsr1", tiny_t5, max_tokens=64)]
    call(Cascade(stages), "a")
    assert len(loaded) == 2
    assert len(encoded) == 4  # "a" and the empty negative prompt, by each


def test_encoded_prompts_give_the_video_of_their_text(tiny_t5):
    cascade = Cascade([stage_of(name, tiny_t5) for name in ("base", "tsr1")])
    embeds, without = cascade.stages[0].text(["a red ball"]), cascade.stages[0].text([""])
    wanted = call(cascade, "a red ball", guidance_scale=3.0)
    made = call(cascade, prompt_embeds=embeds, negative_prompt_embeds=without, guidance_scale=3.0)
    torch.testing.assert_close(made, wanted, rtol=0, atol=1e-6)


def test_encoded_prompts_that_do_not_fit_are_refused(tiny_t5, bundle_of, tmp_path):
    cascade = Cascade([stage_of("base", tiny_t5)])
    narrow = TextFeatures(torch.zeros(1, 2, 8), torch.ones(1, 2, dtype=torch.bool))
    with pytest.raises(ValueError, match="stage base reads tokens of width 16, got 8"):
        cascade(prompt_embeds=narrow)
    with pytest.raises(ValueError, match="prompt and prompt_embeds were both given"):
        cascade("a", prompt_embeds=narrow)
    own = Cascade.from_pretrained(bundle_of("demo/base", tmp_path / "bundle"))
    with pytest.raises(ValueError, match="stage base has a text encoder of its own"):
        own(prompt_embeds=narrow)
    with pytest.raises(ValueError, match="no prompt was given"):
        own()


@pytest.mark.parametrize(
    ("tokens", "mask"),
    [
        (torch.zeros(1, 2, 16), torch.ones(1, 2, dtype=torch.long)),
        (torch.zeros(1, 2, 16), torch.ones(1, 3, dtype=torch.bool)),
        (torch.zeros(2, 16), torch.ones(2, dtype=torch.bool)),
    ],
)
def test_encoded_prompts_with_another_mask_are_refused(tiny_t5, tokens, mask):
    cascade = Cascade([stage_of("base", tiny_t5)])
    with pytest.raises(ValueError, match="prompt_embeds: tokens must be .* of dtype bool, got"):
        cascade(prompt_embeds=TextFeatures(tokens, mask))


def test_an_offloaded_encoder_moves_only_to_encode(tiny_t5, monkeypatch):
    cascade = Cascade([stage_of(name, tiny_t5) for name in ("base", "tsr1")], offload=True)
    encoder = cascade.stages[0].text.encoder()
    moves, move = [], encoder.to
    monkeypatch.setattr(encoder, "to", lambda device: (moves.append(device), move(device))[1])
    call(cascade, "a")
    assert len(moves) == 2  # to the device and back, not with each stage
    assert all(isinstance(stage.text, T5Text) for stage in cascade.stages)
