"""The ways to prompt: where they put what is given, and what of it every stage has, and when."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from cascade import conditioning
from cascade.conditioning import (
    Given,
    Modes,
    Placement,
    Prompt,
    Way,
    choose,
    source_names,
    to_grid,
    unseen,
    ways,
)
from cascade.grid import Grid
from cascade.video import write_mp4, write_png

FIXING = tuple(name for name, way in ways.items() if way.gives_frames)
FRAMES = 32
CPU = torch.device("cpu")


def whole(mask: Tensor) -> Tensor:
    """The frames that are fully given, (b, f)."""
    return mask.amin(dim=(1, 3, 4)) > 0


def clips(batch: int = 1, frames: int = 8) -> Tensor:
    """Noise, so that no two frames are alike and none is 0."""
    generator = torch.Generator().manual_seed(frames)
    return torch.rand(batch, 3, frames, 6, 5, generator=generator) + 0.1


def clock(frames: int) -> Tensor:
    """A video that shows the number of each frame, from 1 on."""
    return torch.arange(1.0, frames + 1).view(1, 1, frames, 1, 1).expand(1, 3, frames, 8, 8)


def equal(a: Given, b: Given) -> bool:
    return torch.equal(a.frames, b.frames) and torch.equal(a.mask, b.mask) and a.end == b.end


def frames_of(given: Given) -> list[int]:
    return whole(given.mask)[0].nonzero().flatten().tolist()


def stages(stride: int) -> Iterator[tuple[int, Grid]]:
    """The grids of a cascade whose base makes every `stride`-th frame, each with its own factor."""
    for factor in (1, 2, 4, 8):
        if stride % factor == 0:
            yield factor, Grid(frames=FRAMES // factor, height=8, width=8, fps=8 / factor)


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
        assert given.end is None


def test_what_closes_a_video_begins_at_a_time_of_the_base_and_ends_the_video() -> None:
    clip = clips(frames=16)
    one, five = clip[:, :, :1], clip[:, :, :5]
    for given, places in (
        (conditioning.first_last(one, one, 16, stride=4), [0, 12]),
        (conditioning.extend_backward(one, 16, stride=4), [12]),
        (conditioning.extend_backward(five, 16, stride=4), [8, 9, 10, 11, 12]),
        (conditioning.connect(five, five, 16, 2, stride=4), [0, 1, 12, 13]),
        (conditioning.loop(five, 16, 5, stride=8), [0, 1, 2, 3, 4, 8, 9, 10, 11, 12]),
    ):
        assert frames_of(given) == places
        assert given.end == places[-1] + 1
    assert conditioning.extend_backward(clip[:, :, :4], 16, stride=4).end is None


@pytest.mark.parametrize(("frames", "stride"), [(16, 1), (16, 2), (128, 8), (1440, 48)])
def test_a_span_that_opens_a_video_ends_at_a_time_of_the_base_if_it_reaches_two(
    frames: int, stride: int
) -> None:
    placement = Placement(frames, stride)
    for count in range(1, frames):
        ended = placement.ended(count)
        if count <= stride:
            assert ended == count
        else:
            assert count - stride < ended <= count
            assert placement.opening(ended)[-1] % stride == 0


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
    assert not whole(given.mask).any()
    assert torch.equal(given.frames, clip * mask)
    made = given.paste(torch.full_like(clip, -1))
    assert torch.equal(made[..., 1:4, 2:4], clip[..., 1:4, 2:4])
    assert (made[..., 0, :] == -1).all()


def test_places_that_do_not_fit_are_refused() -> None:
    clip = clips()
    for indices in ([0, 8], [1, 1], [-1, 2], [3]):
        with pytest.raises(ValueError, match=r"2 frames need 2 different indices in 0…7, got"):
            conditioning.fill_in(clip[:, :, :2], indices, 8)
    with pytest.raises(ValueError, match=r"in 0…3, got \[-4, "):
        conditioning.extend_backward(clip, 4)
    with pytest.raises(ValueError, match=r"overlap must lie in 1…2, .*, got 3"):
        conditioning.connect(clip[:, :, :2], clip, 8, 3)
    with pytest.raises(ValueError, match="different indices"):
        conditioning.connect(clip, clip, 3, 2)
    with pytest.raises(ValueError, match="must be at least 1, got 8 and 0"):
        conditioning.extend_backward(clip[:, :, :1], 8, stride=0)


# What earlier stages are given


@pytest.mark.parametrize("stride", [1, 2, 4, 8])
@pytest.mark.parametrize("way", FIXING)
def test_every_stage_is_given_frames_at_its_own_times_and_the_base_has_some(
    way: str, stride: int
) -> None:
    modes = Modes(shares={way: 1.0}, stride=stride)
    for position in range(32):
        given = modes.draw(clock(FRAMES), seed=0, positions=[position])
        for factor, grid in stages(stride):
            brought = to_grid(given, grid, CPU)
            times = clock(FRAMES)[:, :, ::factor] * brought.mask
            assert torch.equal(brought.frames, times)
            assert torch.equal(brought.mask, given.mask[:, :, ::factor])
        assert to_grid(given, grid, CPU).mask.any(), "the base is given nothing"


def paths(files: Path, name: str | tuple[str, ...]) -> Path | list[Path]:
    """The paths of a source's files."""
    return files / name if isinstance(name, str) else [files / one for one in name]


@pytest.mark.parametrize("stride", [1, 2, 4, 8])
@pytest.mark.parametrize("way", [name for name in FIXING if name not in ("fill_in", "region")])
def test_what_a_stage_is_given_of_a_users_files_is_what_its_training_draws(
    files: Path, way: str, stride: int
) -> None:
    grid = Grid(frames=FRAMES, height=8, width=8, fps=8)
    named = {name: paths(files, sources[name]) for name in ways[way].needs[0]}
    for share in (0.05, 0.2, 0.4, 0.5):
        prompt = conditioning.prompt(grid, stride=stride, way=way, share=share, **named)
        assert prompt.given is not None
        assert prompt.end in (None, frames_of(prompt.given)[-1] + 1)
        for factor, own in stages(stride):
            mask = to_grid(prompt.given, own, CPU).mask.bool()
            trained = Modes(shares={way: 1.0}, stride=stride // factor)
            drawn = trained.mask(own.shape, seed=0, positions=range(400))
            assert (drawn.expand(400, *mask.shape[1:]) == mask).flatten(1).all(1).any()
        assert mask.any(), "the base is given nothing"
        assert not mask.all(), "the base is left nothing to make"


def test_a_stage_does_not_see_frames_between_its_own_times() -> None:
    given = conditioning.fill_in(clips(frames=3), [0, 3, 5], 8)
    assert unseen(given, 8) == []
    assert unseen(given, 4) == [3, 5]
    assert unseen(given, 2) == [5]
    assert unseen(conditioning.extend_forward(clips(frames=3), 8), 2) == []


# The registry


sources = {
    "image": "dark.png",
    "last_image": "light.png",
    "video": "ramp.mp4",
    "connect": ("ramp.mp4", "ramp.mp4"),
    "mask": "half.png",
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video from black to white, a black and a white picture, one that is half white."""
    folder = tmp_path_factory.mktemp("files")
    levels = torch.linspace(-1, 1, FRAMES).view(1, FRAMES, 1, 1).expand(3, FRAMES, 32, 32)
    write_mp4(folder / "ramp.mp4", levels, fps=8)
    for name, level in (("dark", -1.0), ("light", 1.0)):
        write_png(folder / f"{name}.png", torch.full((3, 20, 20), level))
    half = torch.ones(3, 20, 20)
    half[..., 10:] = -1
    write_png(folder / "half.png", half)
    return folder


def test_one_entry_is_all_that_a_way_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    def numbered(number: int, frames: int) -> Prompt:
        return Prompt(given=conditioning.fill_in(clips(1, 1), [number], frames))

    entry = Way(
        name="numbered",
        description="one frame",
        needs=(("number",),),
        read=lambda f: numbered(f.sources["number"], f.grid.frames),
        draw=ways["image"].draw,
        min_frames=2,
    )
    monkeypatch.setitem(ways, "numbered", entry)
    assert Modes(shares={"numbered": 1.0}).names(8, seed=0, positions=[0]) == ["numbered"]
    grid = Grid(frames=8, height=6, width=5, fps=8)
    prompt = conditioning.prompt(grid, number=3)
    assert prompt.given is not None
    assert frames_of(prompt.given) == [3]
    with pytest.raises(ValueError, match="known: text, .*, numbered"):
        choose("nothing", [])


def test_what_is_given_says_which_way_is_meant() -> None:
    for given, way in (
        ([], "text"),
        (["image"], "image"),
        (["image", "last_image"], "first_last"),
        (["last_image"], "extend_backward"),
        (["video"], "extend_forward"),
        (["connect"], "connect"),
        (["indices", "video"], "fill_in"),
        (["video", "mask"], "region"),
        (["video", "strength"], "restyle"),
    ):
        assert choose(None, given).name == way
        assert choose(way, given).name == way
    assert choose("loop", ["video"]).name == "loop"


def test_every_way_names_what_it_lacks_and_what_it_does_not_take() -> None:
    for name, way in ways.items():
        for needed in way.needs:
            for missing in needed:
                with pytest.raises(ValueError, match=rf"^way={name} needs .*{missing}=…"):
                    choose(name, [one for one in needed if one != missing and len(needed) > 1])
            for extra in set(source_names()) - {one for set_ in way.needs for one in set_}:
                with pytest.raises(ValueError, match=rf"^way={name} takes .*, not {extra}=…"):
                    choose(name, [*needed, extra])
    with pytest.raises(ValueError, match=r"^way=sideways: unknown way to prompt; known: text, "):
        choose("sideways", ["video"])
    with pytest.raises(ValueError, match=r"takes exactly image=… and video=…\. .*loop: video=…"):
        choose(None, ["video", "image"])


@pytest.mark.parametrize(
    ("frames", "stride"), [(16, 1), (16, 2), (128, 8), (32, 8), (24, 4), (14, 2)]
)
def test_spans_at_both_ends_leave_every_stage_a_frame_as_in_its_training(frames, stride):
    for known in range(1, Placement(frames, stride).max_ends + 1):
        clip = torch.zeros(1, 3, known, 2, 2)
        given = conditioning.connect(clip, clip, frames, known, stride=stride)
        for factor in (k for k in range(1, stride + 1) if stride % k == 0):
            grid = Grid(frames=frames // factor, height=2, width=2, fps=1)
            mask = to_grid(given, grid, CPU).mask[0, 0, :, 0, 0]
            own = Placement(grid.frames, stride // factor)
            trained = [{*own.opening(n), *own.closing(n)} for n in range(1, own.max_ends + 1)]
            assert {*mask.nonzero().flatten().tolist()} in trained
