"""The wave front of parts: what it gives, and how much of a video it holds."""

import weakref

import pytest
import torch

from cascade.diffusion.sampler import Heun
from cascade.diffusion.schedule import CosineVP
from stages.sampling.wave import Layout, Part, Wave

SCHEDULE = CosineVP()


def blur(z):
    """A local denoiser of radius 1 in time, of all frames but the first and the last."""
    return 0.3 * (z[:, :, :-2] + z[:, :, 1:-1] + z[:, :, 2:])


def wave(layout, noise, held=None):
    def begin(part):
        own = layout.own(part)
        z = noise[:, :, own.start : own.stop].clone()
        if held is not None:
            held.append(weakref.ref(z))
        walk = Heun().walk(z, schedule=SCHEDULE, steps=4)
        return Part(walk=walk, window=(layout.read(part), own))

    def denoise(z, _step, window):
        read, own = window
        edges = (own.start - read.start < 1, read.stop - own.stop < 1)
        zero = torch.zeros_like(z[:, :, :1])
        return blur(torch.cat([zero] * edges[0] + [z] + [zero] * edges[1], dim=2))

    return Wave(layout, begin=begin, denoise=denoise)


def noise_of(frames):
    return torch.randn(1, 1, frames, 1, 1, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("size", [1, 2, 5, 11, 40])
def test_parts_equal_the_whole(size):
    noise = noise_of(23)
    whole = torch.cat(list(wave(Layout(total=23, size=23, reach=0), noise).results()), dim=2)
    layout = Layout(total=23, size=size, reach=1)
    parts = list(wave(layout, noise).results())
    torch.testing.assert_close(torch.cat(parts, dim=2), whole)


@pytest.mark.parametrize("size", [1, 2, 5, 23])
def test_a_loop_turned_in_time_is_the_loop_of_the_turned_noise(size):
    noise = noise_of(23)
    layout = Layout(total=23, size=size, reach=1, loop=True)
    loop = torch.cat(list(wave(layout, noise).results()), dim=2)
    turned = torch.cat(list(wave(layout, noise.roll(4, 2)).results()), dim=2)
    torch.testing.assert_close(turned, loop.roll(4, 2))


def test_the_front_holds_as_many_parts_of_a_long_video_as_of_a_short_one():
    most = []
    for frames in (60, 600):
        held, alive = [], 0
        for _ in wave(Layout(total=frames, size=3, reach=1), noise_of(frames), held).results():
            alive = max(alive, sum(one() is not None for one in held))
        most.append(alive)
    assert most[0] == most[1] < 20


@pytest.mark.parametrize("first", [0, 3, 6])
def test_results_can_begin_at_any_part(first):
    layout, noise = Layout(total=23, size=3, reach=1), noise_of(23)
    parts = list(wave(layout, noise).results())
    rest = list(wave(layout, noise).results(first))
    for part, again in zip(parts[first:], rest, strict=True):
        torch.testing.assert_close(again, part)
