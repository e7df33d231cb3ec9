import io
import json
from itertools import combinations, pairwise

import av
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from webdataset import WebDataset

from cascade.grid import Grid
from data.worlds.minute import SPEED, Minute, MinuteState
from data.worlds.read_minute import order, parse_minute, read_frames
from data.worlds.see import NONE
from data.worlds.story import (
    GONE,
    HELD_OUT,
    LENGTH,
    STARTS,
    STILL,
    STORIES,
    TRAINED,
    VALUES,
    Content,
    heldout_prompts,
    prompt,
)
from data.worlds.world_shards import make_minute

WORLD = Minute()
BASE = Grid(frames=32, height=16, width=16, fps=0.5)


def clip(state: MinuteState, grid: Grid = BASE) -> Tensor:
    return torch.from_numpy(WORLD.render(state, grid)).permute(3, 0, 1, 2)


def right(state: MinuteState, video: Tensor, fps: float) -> bool:
    """Whether the parser reads everything, and the same object in every frame."""
    frames, wanted = read_frames(video, fps), state.content.to_dict()
    same = all({*getattr(frames, n)} - {NONE} == {wanted[n]} for n in ("colour", "shape"))
    return same and parse_minute(video, fps) == wanted and order(frames) == state.content.order()


@pytest.mark.parametrize(
    ("frames", "height", "width", "fps", "clips"),
    [(32, 16, 16, 0.5, 50), (128, 16, 16, 2, 10), (256, 32, 32, 4, 3), (32, 16, 28, 0.5, 12)],
)
def test_the_truth_is_read_back_at_every_size_and_rate(frames, height, width, fps, clips):
    grid = Grid(frames=frames, height=height, width=width, fps=fps)
    states = [WORLD.sample(9, position) for position in range(clips)]
    wrong = [s for s in states if not right(s, clip(s, grid), fps)]
    assert len(wrong) <= 0.01 * clips


@pytest.mark.slow
def test_the_truth_is_read_back_at_the_last_stage_s_size():
    grid = Grid(frames=1536, height=32, width=32, fps=24)
    for position in range(12):
        state = WORLD.sample(9, position)
        assert right(state, clip(state, grid), 24)


def test_the_truth_survives_noise():
    noise = torch.Generator().manual_seed(0)
    for position in range(15):
        state = WORLD.sample(9, position)
        video = clip(state).float() / 127.5 - 1
        noisy = video + 0.1 * torch.randn(video.shape, generator=noise)
        assert parse_minute(noisy, 0.5) == state.content.to_dict()


def test_nothing_is_read_from_an_empty_frame_or_from_noise():
    empty = parse_minute(torch.zeros(3, 32, 16, 16, dtype=torch.uint8), 0.5)
    assert (empty["shape"], empty["colour"], empty["background"]) == (NONE, NONE, "black")
    assert {empty[name] for name in empty if name.startswith("from")} == {GONE}
    noise = torch.randn(3, 32, 16, 16, generator=torch.Generator().manual_seed(0))
    assert parse_minute(noise, 0.5)["shape"] == NONE


def test_every_frame_rate_shows_the_same_moments_and_every_size_the_same_scene():
    for position in range(4):
        state = WORLD.sample(0, position)
        fast = WORLD.render(state, Grid(frames=512, height=16, width=16, fps=8))
        np.testing.assert_array_equal(fast[::16], WORLD.render(state, BASE))
        fine = WORLD.render(state, Grid(frames=32, height=32, width=32, fps=0.5))
        mean = F.avg_pool2d(torch.from_numpy(fine).permute(0, 3, 1, 2).float(), 2)
        coarse = torch.from_numpy(WORLD.render(state, BASE)).permute(0, 3, 1, 2)
        assert (mean - coarse).abs().max() < 1.5


def test_a_state_is_a_function_of_seed_and_position():
    for position in range(20):
        assert WORLD.sample(3, position) == WORLD.sample(3, position)
    assert WORLD.sample(3, 0) != WORLD.sample(4, 0)
    state = WORLD.sample(5, 7)
    assert WORLD.from_json(json.loads(json.dumps(WORLD.to_json(state)))) == state


@pytest.mark.parametrize("width", [16, 28])
def test_the_track_says_what_happens_in_every_frame(width: int):
    grid = Grid(frames=256, height=16, width=width, fps=4)
    for position in range(30):
        state = WORLD.sample(2, position)
        track = WORLD.track(state, grid)
        x, y, shown = (np.array(track[name]) for name in ("x", "y", "visible"))
        times = np.arange(256) / 4
        assert max(np.abs(np.diff(x)).max(), np.abs(np.diff(y)).max()) <= SPEED / 4 + 1e-3
        ends = (*STARTS[1:], LENGTH)
        for start, end, doing in zip(STARTS, ends, state.content.parts, strict=True):
            inside = (times >= start) & (times < end)
            assert {d for d, i in zip(track["does"], inside, strict=True) if i} == {doing}
            if doing == STILL:
                assert np.ptp(x[inside]) == np.ptp(y[inside]) == 0
            if doing == GONE:
                assert (shown[inside & (times > end - 7.5)] == 0).all()
            else:
                assert (shown[inside & (times >= start + 5.5)] == 1).all()


def test_stories_follow_their_rules():
    for parts in STORIES:
        assert GONE not in (parts[0], parts[-1])
        assert len({*parts}) > 1
        for before, after in pairwise(parts):
            assert (before, after) not in {(STILL, GONE), (GONE, STILL)}
    with pytest.raises(ValueError, match="is none of the"):
        Content(shape="bar", colour="red", background="black", parts=(GONE,) * 4)
    with pytest.raises(ValueError, match="colour must be one of"):
        Content(shape="bar", colour="puce", background="black", parts=STORIES[0])


def test_held_out_contents_are_balanced_and_never_drawn():
    drawn = {WORLD.sample(0, position).content for position in range(2000)}
    assert not drawn & {*HELD_OUT}
    assert len(HELD_OUT) + len(TRAINED) == 24 * len(STORIES)
    assert {content.parts for content in HELD_OUT} == {*STORIES}
    for name, known in VALUES.items():
        for value in known:
            count = sum(getattr(content, name) == value for content in HELD_OUT)
            assert abs(count * len(known) / len(HELD_OUT) - 1) < 0.1
    for one, other in combinations((*VALUES, "parts"), 2):
        known = [len(VALUES.get(name, STORIES)) for name in (one, other)]
        pairs = {(getattr(c, one), getattr(c, other)) for c in TRAINED}
        assert len(pairs) == known[0] * known[1]


def test_a_prompt_says_everything_in_order():
    content = Content(
        shape="cross",
        colour="red",
        background="black",
        parts=("sideways", "gone", "sideways", "still"),
    )
    assert [prompt(content, i) for i in range(2)] == [
        "a red cross on black moves sideways, leaves after fifteen seconds, comes back after "
        "thirty seconds, stops after forty-five seconds",
        "black background, a red cross moves sideways; at fifteen it leaves; at thirty it comes "
        "back; at forty-five it stops",
    ]
    for phrasing in range(2):
        said = [prompt(content, phrasing) for content in (*HELD_OUT, *TRAINED)]
        assert len({*said}) == len(said)


def test_in_half_of_the_heldout_prompts_the_object_leaves():
    for n in (1, 8, 32):
        prompts = heldout_prompts(n)
        assert len({text for text, _ in prompts}) == n
        assert sum(GONE in content.parts for _, content in prompts) == n // 2
        assert {content for _, content in prompts} <= {*HELD_OUT}
    with pytest.raises(ValueError, match="n must be from 1 to"):
        heldout_prompts(10_000)


def test_shorter_clips_are_parts_of_the_minute():
    grid = Grid(frames=32, height=16, width=16, fps=8)
    world = Minute(duration=grid.duration)
    begins = [world.sample(0, position).begin for position in range(300)]
    assert 0 <= min(begins) < 5
    assert 55 < max(begins) <= LENGTH - grid.duration
    state = next(s for s in (world.sample(0, p) for p in range(9)) if s.begin > 8)
    whole = WORLD.render(
        MinuteState(**{**vars(state), "begin": state.begin % 0.125}),
        Grid(frames=504, height=16, width=16, fps=8),
    )
    first = int(state.begin // 0.125)
    np.testing.assert_array_equal(world.render(state, grid), whole[first : first + 32])


def test_a_clip_longer_than_the_minute_is_refused():
    with pytest.raises(ValueError, match=r"lasts 64 s, but the last frame"):
        WORLD.render(WORLD.sample(0, 0), Grid(frames=34, height=16, width=16, fps=0.5))
    with pytest.raises(ValueError, match="clips may last from 0 to 64 s, got 65"):
        Minute(duration=65)


def test_shards_hold_the_story_and_every_frame_s_truth(tmp_path):
    make_minute(tmp_path, clips=6, grid=BASE, shard_size=6, workers=1)
    for sample in WebDataset([str(tmp_path / "minute-000000.tar")], shardshuffle=False):
        record = json.loads(sample["json"])
        state = WORLD.from_json(record["state"])
        assert record["track"] == WORLD.track(state, BASE)
        assert sample["txt"].decode() in {prompt(state.content, i) for i in range(2)}
        with av.open(io.BytesIO(sample["mp4"])) as container:
            assert float(container.streams.video[0].average_rate) == 0.5
            decoded = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        video = torch.from_numpy(np.stack(decoded)).permute(3, 0, 1, 2)
        assert parse_minute(video, 0.5) == state.content.to_dict()
