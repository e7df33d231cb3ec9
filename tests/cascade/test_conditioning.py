import math
from collections import Counter

import pytest
import torch
from torch import Tensor

from cascade import conditioning
from cascade.conditioning import Given, Modes, whole_frames

WAYS = tuple(Modes(text=1.0).shares)
EVERY = Modes(**dict.fromkeys(WAYS, 1.0))


def clips(batch: int = 1, frames: int = 8) -> Tensor:
    """Noise, so that no two frames are alike and none is 0."""
    generator = torch.Generator().manual_seed(frames)
    return torch.rand(batch, 3, frames, 6, 5, generator=generator) + 0.1


def equal(a: Given, b: Given) -> bool:
    return torch.equal(a.frames, b.frames) and torch.equal(a.mask, b.mask)


def frames_of(given: Given) -> list[int]:
    return whole_frames(given.mask)[0].nonzero().flatten().tolist()


# The functions


def test_text_fixes_nothing() -> None:
    given = conditioning.text((2, 3, 4, 6, 5))
    assert given.frames.shape == (2, 3, 4, 6, 5)
    assert given.mask.shape == (2, 1, 4, 6, 5)
    assert not given.frames.any()
    assert not given.mask.any()


def test_given_frames_stand_unchanged_at_their_places() -> None:
    clip = clips()
    for given, places in (
        (conditioning.image(clip[:, :, :1], 8), [0]),
        (conditioning.first_last(clip[:, :, :1], clip[:, :, -1:], 8), [0, 7]),
        (conditioning.extend_forward(clip[:, :, :3], 8), [0, 1, 2]),
        (conditioning.extend_backward(clip[:, :, -3:], 8), [5, 6, 7]),
        (conditioning.fill_in(clip[:, :, [1, 4, 6]], [1, 4, 6], 8), [1, 4, 6]),
        (conditioning.connect(clip[:, :, :2], clip[:, :, 6:], 8, 2), [0, 1, 6, 7]),
    ):
        assert frames_of(given) == places
        assert torch.equal(given.frames[:, :, places], clip[:, :, places])
        others = [i for i in range(8) if i not in places]
        assert not given.frames[:, :, others].any()
        assert not given.mask[:, :, others].any()


def test_extending_forward_and_backward_mirror_each_other() -> None:
    clip = clips()
    forward = conditioning.extend_forward(clip[:, :, :3], 8)
    backward = conditioning.extend_backward(clip[:, :, :3].flip(2), 8)
    assert equal(forward, Given(backward.frames.flip(2), backward.mask.flip(2)))


def test_extending_forward_then_backward_comes_back() -> None:
    clip = clips()
    forward = conditioning.extend_forward(clip[:, :, -2:], 8)
    made = forward.paste(torch.zeros_like(forward.frames))
    backward = conditioning.extend_backward(made[:, :, :2], 8)
    assert torch.equal(backward.frames[:, :, -2:], clip[:, :, -2:])


def test_a_loop_connects_a_video_with_itself() -> None:
    video = clips()
    ring = conditioning.loop(video, 6, 2)
    assert equal(ring, conditioning.connect(video, video, 6, 2))
    assert torch.equal(ring.frames[:, :, :2], video[:, :, -2:])
    assert torch.equal(ring.frames[:, :, -2:], video[:, :, :2])


def test_a_region_is_kept_and_pasted_and_no_frame_is_whole() -> None:
    clip = clips()
    mask = torch.zeros(1, 1, 8, 6, 5)
    mask[..., 1:4, 2:4] = 1
    given = conditioning.region(clip, mask)
    assert not whole_frames(given.mask).any()
    assert torch.equal(given.frames, clip * mask)
    made = given.paste(torch.full_like(clip, -1))
    assert torch.equal(made[..., 1:4, 2:4], clip[..., 1:4, 2:4])
    assert (made[..., 0, :] == -1).all()


def test_places_that_do_not_fit_are_refused() -> None:
    clip = clips()
    for indices in ([0, 8], [1, 1], [-1, 2], [3]):
        with pytest.raises(ValueError, match=r"2 need as many different places in 0…7, got"):
            conditioning.fill_in(clip[:, :, :2], indices, 8)
    with pytest.raises(ValueError, match=r"in 0…3, got \[-4, "):
        conditioning.extend_backward(clip, 4)
    with pytest.raises(ValueError, match=r"overlap must lie in 1…2, .*, got 3"):
        conditioning.connect(clip[:, :, :2], clip, 8, 3)
    with pytest.raises(ValueError, match="different places"):
        conditioning.connect(clip, clip, 3, 2)


# Drawing in training


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("frames", [3, 8, 17])
def test_training_gives_the_clips_own_pixels_and_leaves_some_to_make(way: str, frames: int) -> None:
    clip = clips(16, frames)
    given = Modes(**{way: 1.0}).draw(clip, seed=0, positions=range(16))
    assert torch.equal(given.frames, clip * given.mask)
    assert set(given.mask.unique().tolist()) <= {0.0, 1.0}
    assert (given.mask.amin(dim=(1, 2, 3, 4)) == 0).all()
    if way != "text":
        assert (given.mask.amax(dim=(1, 2, 3, 4)) == 1).all()


def test_training_and_sampling_share_their_functions() -> None:
    clip = clips()
    first, last = clip[:, :, :1], clip[:, :, -1:]
    for way, asked in (
        ("text", conditioning.text(clip.shape)),
        ("image", conditioning.image(first, 8)),
        ("first_last", conditioning.first_last(first, last, 8)),
    ):
        assert equal(Modes(**{way: 1.0}).draw(clip, seed=3, positions=[5]), asked)
    for way, ask in (
        ("extend_forward", lambda head, _: conditioning.extend_forward(head, 8)),
        ("extend_backward", lambda _, tail: conditioning.extend_backward(tail, 8)),
        ("connect", lambda head, tail: conditioning.connect(head, tail, 8, head.shape[2])),
        (
            "loop",
            lambda head, tail: conditioning.loop(torch.cat([tail, head], 2), 8, head.shape[2]),
        ),
    ):
        drawn = Modes(**{way: 1.0}).draw(clip, seed=3, positions=[5])
        known = len(frames_of(drawn)) // (2 if way in ("connect", "loop") else 1)
        assert equal(drawn, ask(clip[:, :, :known], clip[:, :, -known:]))


def test_ways_come_at_their_shares() -> None:
    shares = {"text": 7.0, "image": 1.0, "extend_forward": 1.5, "region": 0.5}
    draws = 4000
    names = Modes(**shares).names(8, seed=1, positions=range(draws))
    counts = Counter(names)
    assert set(counts) == set(shares)
    for way, share in shares.items():
        chance = share / 10
        spread = math.sqrt(chance * (1 - chance) / draws)
        assert counts[way] / draws == pytest.approx(chance, abs=4 * spread)


def test_draws_are_keyed_whatever_the_batch() -> None:
    clip = clips(12)
    whole = EVERY.draw(clip, seed=4, positions=range(100, 112))
    for part in (slice(0, 5), slice(5, 12)):
        drawn = EVERY.draw(clip[part], seed=4, positions=range(100 + part.start, 100 + part.stop))
        assert equal(drawn, Given(whole.frames[part], whole.mask[part]))
    again = EVERY.names(8, seed=5, positions=range(100, 112))
    assert again != EVERY.names(8, seed=4, positions=range(100, 112))


def test_lengths_vary_up_to_half_the_clip() -> None:
    drawn = Modes(extend_forward=1.0).draw(clips(64), seed=0, positions=range(64))
    assert set(whole_frames(drawn.mask).sum(dim=1).tolist()) == {1, 2, 3, 4}


def test_images_are_prompted_by_text_or_region_alone() -> None:
    assert set(EVERY.names(1, seed=0, positions=range(200))) == {"text", "region"}
    assert set(Modes(image=1.0, loop=2.0).names(1, seed=0, positions=range(20))) == {"text"}
    assert EVERY.draw(clips(4, 1), seed=0, positions=range(4)).mask.shape == (4, 1, 1, 6, 5)


def test_region_keeps_inside_or_outside_of_a_box() -> None:
    drawn = Modes(region=1.0).draw(clips(64), seed=0, positions=range(64))
    corners = drawn.mask[:, 0, 0, [0, 0, -1, -1], [0, -1, 0, -1]].sum(dim=1)
    assert 8 < (corners == 4).sum() < 56  # most boxes leave the corners free
    assert torch.equal(drawn.mask[:, :, :1].expand_as(drawn.mask), drawn.mask)


def test_shares_that_are_none_are_refused() -> None:
    with pytest.raises(ValueError, match="must not all be 0"):
        Modes()
    with pytest.raises(ValueError, match="must not be negative"):
        Modes(text=1.0, image=-0.1)
