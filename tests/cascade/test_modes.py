"""What is given of training clips: shares, keyed draws, and the clip's own pixels."""

import math
from collections import Counter
from typing import Any

import pytest
import torch
from hydra.utils import instantiate
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from cascade import conditioning
from cascade.conditioning import Given, Modes, ways
from tests.composed import composed

PRACTISED = tuple(name for name, way in ways.items() if way.draw is not None)
EVERY = Modes(shares=dict.fromkeys(PRACTISED, 1.0))


def whole_frames(mask: Tensor) -> Tensor:
    """The frames that are fully given, (b, f)."""
    return mask.amin(dim=(1, 3, 4)) > 0


def clips(batch: int = 1, frames: int = 8) -> Tensor:
    """Noise, so that no two frames are alike and none is 0."""
    generator = torch.Generator().manual_seed(frames)
    return torch.rand(batch, 3, frames, 6, 5, generator=generator) + 0.1


def only(way: str, stride: int = 1) -> Modes:
    return Modes(shares={way: 1.0}, stride=stride)


def equal(a: Given, b: Given) -> bool:
    return torch.equal(a.frames, b.frames) and torch.equal(a.mask, b.mask)


@pytest.mark.parametrize("way", PRACTISED)
@pytest.mark.parametrize("stride", [1, 2, 4])
@pytest.mark.parametrize("frames", [3, 8, 17])
def test_training_gives_the_clips_own_pixels_and_leaves_some_to_make(
    way: str, stride: int, frames: int
) -> None:
    clip = clips(16, frames)
    modes = only(way, stride)
    given = modes.draw(clip, seed=0, positions=range(16))
    assert torch.equal(given.frames, clip * given.mask)
    assert set(given.mask.unique().tolist()) <= {0.0, 1.0}
    assert (given.mask.amin(dim=(1, 2, 3, 4)) == 0).all()
    if modes.probabilities(frames) == {way: 1.0} and way != "text":
        assert (given.mask.amax(dim=(1, 2, 3, 4)) == 1).all()


@pytest.mark.parametrize("stride", [1, 2])
def test_training_and_sampling_share_their_functions(stride: int) -> None:
    clip = clips()
    for way in ("text", "image", "first_last", "extend_forward", "extend_backward", "connect"):
        drawn = only(way, stride).draw(clip, seed=3, positions=[5])
        places = whole_frames(drawn.mask)[0].nonzero().flatten().tolist()
        opening = [place for i, place in enumerate(places) if place == i]
        head, tail = clip[:, :, opening], clip[:, :, [p for p in places if p not in opening]]
        asked = {
            "text": lambda *_: conditioning.text(clip.shape),
            "image": lambda head, _: conditioning.image(head, 8),
            "first_last": lambda a, b: conditioning.first_last(a, b, 8, stride=stride),
            "extend_forward": lambda head, _: conditioning.extend_forward(head, 8),
            "extend_backward": lambda _, b: conditioning.extend_backward(b, 8, stride=stride),
            "connect": lambda a, b: conditioning.connect(a, b, 8, a.shape[2], stride=stride),
        }[way](head, tail)
        assert equal(drawn, asked)


def test_ways_come_at_their_shares() -> None:
    shares = {"text": 7.0, "image": 1.0, "extend_forward": 1.5, "region": 0.5}
    draws = 4000
    names = Modes(shares=shares).names(8, seed=1, positions=range(draws))
    counts = Counter(names)
    assert set(counts) == set(shares)
    for way, share in shares.items():
        chance = share / 10
        spread = math.sqrt(chance * (1 - chance) / draws)
        assert counts[way] / draws == pytest.approx(chance, abs=4 * spread)


def test_draws_are_keyed_whatever_the_batch() -> None:
    clip = clips(12)
    everything = EVERY.draw(clip, seed=4, positions=range(100, 112))
    for part in (slice(0, 5), slice(5, 12)):
        drawn = EVERY.draw(clip[part], seed=4, positions=range(100 + part.start, 100 + part.stop))
        assert equal(drawn, Given(everything.frames[part], everything.mask[part]))
    again = EVERY.names(8, seed=5, positions=range(100, 112))
    assert again != EVERY.names(8, seed=4, positions=range(100, 112))


def test_draws_do_not_depend_on_the_order_in_which_shares_are_listed() -> None:
    backwards = Modes(shares=dict.fromkeys(reversed(PRACTISED), 1.0))
    assert backwards.names(8, seed=0, positions=range(50)) == EVERY.names(
        8, seed=0, positions=range(50)
    )


def test_lengths_vary_up_to_half_the_clip() -> None:
    drawn = only("extend_forward").draw(clips(64), seed=0, positions=range(64))
    assert set(whole_frames(drawn.mask).sum(dim=1).tolist()) == {1, 2, 3, 4}


def test_images_are_prompted_by_text_or_region_alone() -> None:
    assert set(EVERY.names(1, seed=0, positions=range(200))) == {"text", "region"}
    short = Modes(shares={"image": 1.0, "loop": 2.0})
    assert set(short.names(1, seed=0, positions=range(20))) == {"text"}
    assert EVERY.draw(clips(4, 1), seed=0, positions=range(4)).mask.shape == (4, 1, 1, 6, 5)


def test_a_clip_with_one_time_of_the_base_cannot_be_closed() -> None:
    every = Modes(shares=dict.fromkeys(PRACTISED, 1.0), stride=8)
    closing = {name for name, way in ways.items() if way.closes}
    assert not closing & set(every.probabilities(8))
    assert closing <= set(every.probabilities(16))


def test_region_keeps_inside_or_outside_of_a_box() -> None:
    drawn = only("region").draw(clips(64), seed=0, positions=range(64))
    corners = drawn.mask[:, 0, 0, [0, 0, -1, -1], [0, -1, 0, -1]].sum(dim=1)
    assert 8 < (corners == 4).sum() < 56  # most boxes leave the corners free
    assert torch.equal(drawn.mask[:, :, :1].expand_as(drawn.mask), drawn.mask)


class Copies(TorchDispatchMode):
    """Counts the operations that take a tensor from the CPU to another device."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        leaving = any(isinstance(a, Tensor) and a.device.type == "cpu" and a.ndim for a in args)
        if leaving and isinstance(out, Tensor) and out.device.type != "cpu":
            self.count += 1
        return out


def test_drawing_takes_one_copy_to_the_clips_device() -> None:
    clip = torch.empty(32, 3, 8, 16, 16, device="meta")
    with Copies() as copies:
        given = EVERY.draw(clip, seed=0, positions=range(32))
    assert len(set(EVERY.names(8, seed=0, positions=range(32)))) > 5
    assert given.frames.device.type == given.mask.device.type == "meta"
    assert copies.count == 1


def test_shares_that_are_none_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one share must be more than 0"):
        Modes(shares={})
    with pytest.raises(ValueError, match="at least one share must be more than 0"):
        Modes(shares={"text": 0.0})
    with pytest.raises(ValueError, match=r"share of image must be 0 or more, got -0\.1"):
        Modes(shares={"text": 1.0, "image": -0.1})
    with pytest.raises(ValueError, match=r"modes: sideways: unknown way to prompt; known: text"):
        Modes(shares={"text": 1.0, "sideways": 0.0})
    with pytest.raises(ValueError, match="restyle is not trained"):
        Modes(shares={"text": 1.0, "restyle": 0.1})
    with pytest.raises(ValueError, match="modes: sideways: unknown way"):
        Modes(shares={"text": 1.0}, only="sideways")
    with pytest.raises(ValueError, match="restyle is not trained"):
        Modes(shares={"text": 1.0}, only="restyle")
    with pytest.raises(ValueError, match="stride must be at least 1, got 1 and 0"):
        Modes(shares={"text": 1.0}, stride=0)


# The configs


def test_a_way_that_no_config_lists_is_not_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ways, "new", ways["image"])
    for debug in ([], ["debug=overfit"]):
        modes = instantiate(composed("train", "stage=demo/base", *debug).stage.train.modes)
        assert "new" not in modes.probabilities(8)


@pytest.mark.parametrize("stage", ["demo/base", "demo/tsr1", "imagen_video/ssr3"])
def test_an_overfitted_stage_trains_text_alone(stage: str) -> None:
    modes = instantiate(composed("train", f"stage={stage}", "debug=overfit").stage.train.modes)
    assert modes.probabilities(128) == {"text": 1.0}


@pytest.mark.parametrize("name", ["demo", "minute", "single_gpu", "imagen_video"])
def test_each_stage_knows_which_of_its_frames_the_base_makes(name: str) -> None:
    stride = 1
    for stage in composed("sample", f"cascade={name}").cascade.stages:
        config = composed("train", f"stage={name}/{stage}").stage
        stride *= instantiate(config.kind).scale.time
        assert config.train.modes.stride == stride
