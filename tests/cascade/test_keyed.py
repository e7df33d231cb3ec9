"""Laws of keyed draws: each position has its own, and a window has those of the whole."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from cascade import keyed

MANY = range(10_000)
FRAME = (2, 3, 5)


def window(positions: range | list[int], frames: range, purpose: str = "start") -> Tensor:
    return keyed.video_noise(7, positions, purpose, frames=frames, frame_shape=FRAME)


def from_generators(purpose: str) -> Tensor:
    return torch.stack([torch.rand(4, generator=keyed.generator(7, p, purpose)) for p in MANY])


def from_rngs(purpose: str) -> Tensor:
    return torch.stack([torch.from_numpy(keyed.rng(7, p, purpose).random(4)) for p in MANY])


@pytest.mark.parametrize(
    "draw",
    [
        lambda purpose: keyed.normals(7, MANY, purpose, (8,)),
        lambda purpose: keyed.uniforms(7, MANY, purpose)[:, None],
        lambda purpose: window(MANY, range(1), purpose).flatten(1)[:, :8],
        from_generators,
        from_rngs,
    ],
    ids=["normals", "uniforms", "video_noise", "generator", "rng"],
)
def test_no_two_positions_and_no_two_purposes_share_a_draw(draw: Callable[[str], Tensor]) -> None:
    rows = torch.cat([draw("one"), draw("other")])
    assert len(torch.unique(rows, dim=0)) == len(rows)


def test_keys_that_agree_in_32_bits_have_other_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch seeds its CPU generator by 32 bits alone."""
    monkeypatch.setattr(keyed, "key", lambda *_: 5)
    one, other = (torch.rand(8, generator=keyed.generator(0, p, "way")) for p in (1, 2))
    assert not torch.equal(one, other)


def test_a_draw_is_a_function_of_its_own_position_alone() -> None:
    whole = keyed.normals(7, [3, 5, 8], "eps", (3, 5))
    assert torch.equal(keyed.normals(7, [5], "eps", (3, 5)), whole[1:2])
    assert torch.equal(window([5], range(4)), window([3, 5, 8], range(4))[1:2])
    again = [torch.rand(3, generator=keyed.generator(7, 5, "way")) for _ in range(2)]
    assert torch.equal(*again)
    assert keyed.rng(7, 5, "way").random() == keyed.rng(7, 5, "way").random()


@pytest.mark.parametrize(("first", "last"), [(0, 1), (0, 9), (3, 4), (5, 9), (8, 9), (4, 4)])
def test_a_window_of_frames_has_the_noise_of_the_whole(first: int, last: int) -> None:
    whole = window([0, 1], range(9))
    assert whole.shape == (2, 2, 9, 3, 5)
    assert torch.equal(window([0, 1], range(first, last)), whole[:, :, first:last])


def test_no_two_frames_share_their_noise() -> None:
    frames = window(range(20), range(300)).transpose(1, 2).flatten(0, 1).flatten(1)
    assert len(torch.unique(frames, dim=0)) == len(frames)


def test_frames_far_on_in_a_video_have_noise() -> None:
    far = window([0], range(10**9, 10**9 + 2))
    assert torch.equal(far[:, :, 1:], window([0], range(10**9 + 1, 10**9 + 2)))


@pytest.mark.parametrize("frames", [range(0, 8, 2), range(-1, 3), range(5, 0, -1)])
def test_a_window_with_gaps_or_below_0_is_refused(frames: range) -> None:
    with pytest.raises(ValueError, match=r"start.*consecutive and at least 0, got range"):
        window([0], frames)


@pytest.mark.parametrize(
    "noise",
    [
        keyed.normals(7, range(64), "eps", (3, 4, 32, 32)),
        keyed.video_noise(7, range(64), "eps", frames=range(4), frame_shape=(3, 32, 32)),
    ],
    ids=["normals", "video_noise"],
)
def test_noise_is_standard_normal_and_white(noise: Tensor) -> None:
    assert noise.dtype == torch.float32
    count = noise.numel()
    values = noise.double().flatten()
    for power, moment, spread in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        found = (values**power).mean().item()
        assert found == pytest.approx(moment, abs=5 * math.sqrt(spread / count))
    ordered = np.sort(values.numpy())
    expected = torch.special.ndtr(torch.from_numpy(ordered)).numpy()
    distance = np.abs(expected - (np.arange(count) + 0.5) / count).max()
    assert distance < 1.95 / math.sqrt(count)  # Kolmogorov–Smirnov at one in a thousand
    flat = noise.flatten(1).double()
    for one, other in ((flat[:, 1:], flat[:, :-1]), (flat[1:], flat[:-1])):
        assert abs((one * other).mean().item()) < 5 / math.sqrt(one.numel())
    halves = flat.unflatten(1, (2, -1))  # of a pair one may lie in either half
    assert abs((halves[:, 0] * halves[:, 1]).mean().item()) < 5 / math.sqrt(count / 2)


def test_noise_of_a_network_without_values_has_a_shape_alone() -> None:
    made = keyed.normals(7, [1, 2], "eps", (3, 4), "meta")
    assert (made.device.type, made.shape) == ("meta", (2, 3, 4))
    made = keyed.video_noise(0, [1], "start", frames=range(2), frame_shape=FRAME, device="meta")
    assert (made.device.type, made.shape) == ("meta", (1, 2, 2, 3, 5))
