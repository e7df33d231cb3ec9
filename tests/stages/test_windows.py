"""A stage sampled in windows and tiles equals the stage sampled whole."""

import pytest
import torch

from cascade import conditioning, keyed
from cascade.conditioning import Given
from cascade.diffusion.guidance import DynamicThreshold, Guidance, ZeroStar
from cascade.diffusion.sampler import DDIM, Ancestral, DPMSolverPP2M, Euler, Heun
from cascade.grid import Grid
from cascade.request import Windows
from tests.stages.invertible import Cells

GRID = Grid(frames=36, height=16, width=48, fps=8)
TOLERANCE = 2e-5
LOCAL = ["demo/tsr1", "demo/ssr1"]


def video(frames=GRID.frames, seed=0, height=GRID.height, width=GRID.width):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(1, 3, frames, height, width, generator=generator) * 2 - 1


def sampled(stage, grid=GRID, **request):
    low = stage.kind.reduce(video())
    settings = {"grid": grid, "seeds": [3], "low": low, "steps": 2, "guidance_scale": 2.0}
    return stage.sample(["a red ball"], **{**settings, **request})


@pytest.fixture(scope="module")
def wholes():
    return {}


@pytest.fixture
def whole(build, wholes):
    """The video of a choice, sampled whole; once for all tests."""

    def make(choice):
        if choice not in wholes:
            wholes[choice] = sampled(build(choice))
        return wholes[choice]

    return make


@pytest.mark.parametrize("choice", LOCAL)
@pytest.mark.parametrize("size", [4, 10, 32])
def test_windows_equal_the_whole(build, whole, choice, size):
    windowed = sampled(build(choice), windows=Windows(frames=size))
    torch.testing.assert_close(windowed, whole(choice), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("choice", LOCAL)
def test_tiles_equal_the_whole(build, whole, choice):
    tiled = sampled(build(choice), windows=Windows(frames=16, tile=16))
    torch.testing.assert_close(tiled, whole(choice), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize(
    "sampler",
    [DDIM(), DDIM(eta=1.0), Ancestral(gamma=0.3), Euler(), Heun(), DPMSolverPP2M()],
    ids=lambda one: type(one).__name__ + str(getattr(one, "eta", "")),
)
def test_every_sampler_gives_the_same_in_windows(build, sampler):
    stage = build("demo/tsr1")
    stage.sampling.sampler = sampler
    windowed = sampled(stage, windows=Windows(frames=8), steps=3)
    torch.testing.assert_close(windowed, sampled(stage, steps=3), rtol=0, atol=TOLERANCE)


def test_given_frames_and_regions_are_the_same_in_windows(build, whole):
    stage = build("demo/ssr1")
    frames, mask = video(seed=5), torch.zeros(1, 1, *GRID.shape)
    mask[:, :, [0, 13, 14, 35]] = 1
    mask[:, :, 20:30, :, :20] = 1
    given = Given(frames * mask, mask)
    filled = sampled(stage, given=given)
    windowed = sampled(stage, given=given, windows=Windows(frames=8, tile=16))
    torch.testing.assert_close(windowed, filled, rtol=0, atol=TOLERANCE)
    assert torch.equal(windowed[:, :, 13], frames[:, :, 13])
    assert not torch.allclose(whole("demo/ssr1")[:, :, 12], filled[:, :, 12])


@pytest.mark.parametrize("choice", LOCAL)
def test_windows_in_latents_equal_the_whole(build, choice):
    stage = build(choice, codec=Cells(factor=(2, 2, 2)))
    windowed = sampled(stage, windows=Windows(frames=8, tile=16))
    torch.testing.assert_close(windowed, sampled(stage), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("less", [(1, 0), (0, 1)], ids=["frames", "pixels"])
def test_a_receptive_field_that_is_stated_too_small_is_seen(build, whole, monkeypatch, less):
    stage = build("demo/ssr1")
    frames, pixels = stage.net.receptive_field
    small = (1, pixels) if less[0] else (frames, 1)
    right = whole("demo/ssr1")
    monkeypatch.setattr(type(stage.net), "receptive_field", small)
    off = sampled(stage, windows=Windows(frames=4 if less[0] else 36, tile=16)) - right
    assert off.abs().max() > 10 * TOLERANCE


def test_statistics_of_each_frame_are_the_same_in_windows(build):
    stage = build("demo/ssr1")
    stage.sampling.guidance = Guidance(
        scale=3.0,
        zero_star=ZeroStar(still=0.3),
        rescale=0.7,
        threshold=DynamicThreshold(percentile=90.0),
        statistics="frame",
    )
    request = {"guidance_scale": 3.0}
    windowed = sampled(stage, windows=Windows(frames=8), **request)
    torch.testing.assert_close(windowed, sampled(stage, **request), rtol=0, atol=TOLERANCE)
    stage.sampling.guidance.statistics = "video"
    assert not torch.allclose(windowed, sampled(stage, **request), atol=1e-3)


def test_a_stream_can_begin_at_any_frame(build, whole):
    rest = sampled(build("demo/tsr1"), windows=Windows(frames=8), first=27)
    torch.testing.assert_close(rest, whole("demo/tsr1")[:, :, 27:], rtol=0, atol=TOLERANCE)


def test_a_stream_takes_its_input_as_it_is_made_and_holds_little_of_it(build, whole):
    stage = build("demo/tsr1")
    low = stage.kind.reduce(video())
    taken = []

    def parts():
        for frame in range(0, low.shape[2], 2):
            taken.append(frame)
            yield low[:, :, frame : frame + 2]

    request = {"grid": GRID, "seeds": [3], "steps": 2, "guidance_scale": 2.0}
    windows = Windows(frames=4)
    stream = stage.stream(["a red ball"], low=parts(), windows=windows, **request)
    first = next(stream)
    assert max(taken) < low.shape[2] - 2
    streamed = torch.cat([first, *stream], dim=2)
    torch.testing.assert_close(streamed, whole("demo/tsr1"), rtol=0, atol=TOLERANCE)


def test_an_input_that_ends_early_is_refused(build):
    stage = build("demo/tsr1")
    low = stage.kind.reduce(video())
    with pytest.raises(ValueError, match=r"must give \(18, 16, 48\), got \(14, 16, 48\)"):
        sampled(stage, low=iter([low[:, :, :14]]), windows=Windows(frames=8))


@pytest.mark.parametrize("choice", LOCAL)
@pytest.mark.parametrize("windows", [Windows(), Windows(frames=8)], ids=["whole", "windows"])
def test_a_loop_has_no_first_frame(build, choice, windows):
    """A loop of the input rolled in time, with the noise rolled alike, is the loop rolled."""
    stage, by = build(choice), 6
    factor = stage.kind.scale.time

    def noise(shift):
        def draw(purpose, frames, shape):
            places = range(GRID.frames)
            whole = keyed.video_noise(0, [3], purpose, frames=places, frame_shape=shape)
            return whole.roll(shift, 2)[:, :, list(frames)]

        return draw

    low = stage.kind.reduce(video())
    loop = sampled(stage, loop=True, windows=windows, noise=noise(0))
    rolled = sampled(
        stage, loop=True, windows=windows, low=low.roll(by // factor, 2), noise=noise(by)
    )
    torch.testing.assert_close(rolled, loop.roll(by, 2), rtol=0, atol=TOLERANCE)
    assert not torch.allclose(loop[:, :, 0], sampled(stage, noise=noise(0))[:, :, 0], atol=1e-3)


def test_captions_hold_for_their_own_frames(build, whole):
    stage = build("demo/ssr1")
    reach = 3 * stage.net.receptive_field[0]
    later = [(2.25, ["a blue ball"])]
    both = sampled(stage, later=later)
    first, second = whole("demo/ssr1"), sampled(stage, later=[(0.0, ["a blue ball"])])
    switch = 18
    torch.testing.assert_close(
        both[:, :, : switch - reach], first[:, :, : switch - reach], rtol=0, atol=TOLERANCE
    )
    torch.testing.assert_close(
        both[:, :, switch + reach :], second[:, :, switch + reach :], rtol=0, atol=TOLERANCE
    )
    assert not torch.allclose(first, second, atol=1e-3)
    windowed = sampled(stage, later=later, windows=Windows(frames=10))
    torch.testing.assert_close(windowed, both, rtol=0, atol=TOLERANCE)


def test_a_network_that_reads_all_frames_continues_window_by_window(build):
    stage = build("demo/base")
    grid = Grid(frames=20, height=16, width=16, fps=4)
    request = {"grid": grid, "seeds": [1], "steps": 2}
    windows = Windows(frames=8, overlap=4)
    made = stage.sample(["a red ball"], windows=windows, **request)
    assert made.shape[2] == 20
    eight = Grid(frames=8, height=16, width=16, fps=4)
    alone = stage.sample(["a red ball"], **{**request, "grid": eight})
    torch.testing.assert_close(made[:, :, :8], alone, rtol=0, atol=TOLERANCE)

    def noise(purpose, frames, shape):
        frames = range(frames.start + 4, frames.stop + 4)
        return keyed.video_noise(0, [1], f"base/{purpose}", frames=frames, frame_shape=shape)

    given = conditioning.extend_forward(alone[:, :, 4:], 8)
    second = stage.sample(["a red ball"], **{**request, "grid": eight}, given=given, noise=noise)
    torch.testing.assert_close(made[:, :, 4:12], second, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize(
    ("choice", "windows", "rule"),
    [
        ("demo/base", Windows(tile=16), "reads whole frames, so it cannot be sampled in tiles"),
        ("demo/base", Windows(frames=3), "must be a multiple of 2, got 3"),
        ("demo/base", Windows(frames=8, overlap=8), "must be less than their 8 frames, got 8"),
        ("demo/base", Windows(frames=2), "must be less than their 2 frames, got 2"),
        ("demo/tsr1", Windows(frames=5), "must be a multiple of 2, got 5"),
    ],
)
def test_impossible_windows_are_refused(build, choice, windows, rule):
    stage = build(choice)
    low = {} if choice == "demo/base" else {"low": stage.kind.reduce(video())}
    with pytest.raises(ValueError, match=rf"stage {stage.name}: .*{rule}"):
        stage.sample(["a"], grid=GRID, seeds=[0], windows=windows, **low)


def test_windows_are_refused_where_a_statistic_is_of_the_whole_video(build):
    stage = build("demo/ssr1")
    stage.sampling.guidance = Guidance(scale=2.0, rescale=0.7)
    with pytest.raises(ValueError, match=r"stage ssr1: rescale of .*statistics=frame"):
        sampled(stage, windows=Windows(frames=8))


@pytest.mark.parametrize("value", [0, -4, True])
def test_windows_have_whole_sizes(value):
    with pytest.raises(ValueError, match=r"windows: frames must be an integer of at least 1"):
        Windows(frames=value)


def test_a_start_noised_to_time_0_is_the_result(build):
    stage = build("demo/ssr1")
    start = video(seed=9)
    assert torch.equal(sampled(stage, start=(start, 0.0)), start)
