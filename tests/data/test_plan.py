"""The plan is a pure function of (rows, seed, position); selection counts what it drops."""

import numpy as np
import pytest

from data.index import ensure_index
from data.plan import Plan, rank_batch, rank_positions
from data.select import Index, Need, clip_length, select, split


def plan(videos=10, images=0, **options):
    options = {"seed": 1, "global_batch": 4, "image_share": 0.0} | options
    return Plan(videos=np.arange(videos), images=np.arange(videos, videos + images), **options)


def need(**options):
    return Need(**({"frames": 8, "fps": 8.0, "min_height": 32, "min_width": 32} | options))


def index(*paths):
    shards = [str(path) for path in paths]
    return Index.load(shards, ensure_index(shards))


def test_each_epoch_takes_every_row_once_in_another_order():
    rows = [plan().row(p) for p in range(30)]
    epochs = [rows[i : i + 10] for i in (0, 10, 20)]
    assert all(sorted(e) == list(range(10)) for e in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


def test_a_position_needs_no_history():
    whole = [plan(images=7, image_share=0.3).row(p) for p in range(200)]
    fresh = plan(images=7, image_share=0.3)
    assert [fresh.row(p) for p in range(199, -1, -1)] == whole[::-1]
    assert whole != [plan(images=7, image_share=0.3, seed=2).row(p) for p in range(200)]


@pytest.mark.parametrize("share", [0.0, 0.1, 1 / 3, 1.0])
def test_image_batches_keep_their_share_and_their_shape(share):
    p = plan(images=7, image_share=share)
    kinds = [p.kind(n) for n in range(300)]
    assert abs(kinds.count("image") - 300 * share) <= 1
    for n in range(300):
        rows = [p.row(position) for position in range(4 * n, 4 * n + 4)]
        assert all((row >= 10) == (kinds[n] == "image") for row in rows)


def test_share_of_images_without_images_or_without_videos():
    assert {plan(image_share=0.5).kind(n) for n in range(20)} == {"video"}
    assert {plan(videos=0, images=3, image_share=0.5).kind(n) for n in range(20)} == {"image"}
    with pytest.raises(ValueError, match="at least one video or image"):
        plan(videos=0)
    with pytest.raises(ValueError, match=r"image_share must be in \[0, 1\], got 2"):
        plan(image_share=2)


@pytest.mark.parametrize("world", [1, 2, 4, 8])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_ranks_and_accumulation_cover_the_same_positions(world, accumulate):
    size = rank_batch(global_batch=16, world=world, accumulate=accumulate)
    for step in range(3):
        seen = [
            position
            for micro in range(step * accumulate, (step + 1) * accumulate)
            for rank in range(world)
            for position in rank_positions(micro, rank=rank, world=world, size=size)
        ]
        assert seen == list(range(step * 16, (step + 1) * 16))
    with pytest.raises(ValueError, match="global_batch=16 is not a multiple of 3 ranks"):
        rank_batch(global_batch=16, world=3, accumulate=1)


def test_alternatives_are_keyed_and_of_the_same_kind():
    p = plan(images=7, image_share=0.5)
    for position in range(40):
        tries = [p.row(position, k) for k in range(5)]
        assert tries == [p.row(position, k) for k in range(5)]
        assert len({row >= 10 for row in tries}) == 1


def test_a_clip_may_end_half_a_frame_early():
    assert clip_length(15.5 / 8, 8) == 16
    assert clip_length(15.4 / 8, 8) == 15
    assert clip_length(0.01, 8) == 1


def test_selection_drops_by_reason_and_names_it(tmp_path, write_shard, make_clips):
    mute = make_clips(2, first=20)
    for sample in mute:
        del sample["txt"]
    samples = [
        *make_clips(3),
        *make_clips(4, first=3, frames=4),
        *make_clips(1, first=7, height=24, width=80),
        *mute,
        {"__key__": "alone", "txt": "no video"},
    ]
    one = write_shard(tmp_path / "0.tar", samples)
    two = write_shard(tmp_path / "1.tar", make_clips(1))
    found = index(one, two)
    chosen = select(found, need())
    assert chosen.videos.tolist() == [0, 1, 2]
    assert chosen.dropped == {
        "caption or json without a video or image": 1,
        "duplicate key, in another shard": 1,
        "no caption": 2,
        "too short for 8 frames at 8 fps": 4,
        "smaller than 32×32": 1,
    }
    assert len(select(found, need(min_height=0, min_width=0, captions=False)).videos) == 6


def test_an_image_stage_takes_videos_and_images_alike(tmp_path, write_shard, make_clips, make_jpeg):
    image = {"__key__": "image", "jpg": make_jpeg(), "txt": "picture"}
    found = index(write_shard(tmp_path / "0.tar", [*make_clips(2), image]))
    assert len(select(found, need(frames=1)).videos) == 3
    both = select(found, need(images=True))
    assert (len(both.videos), len(both.images)) == (2, 1)
    assert select(found, need()).dropped == {"an image, and image_share is 0": 1}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"frames": 16}, r"20 too short for 16 frames.*lasts 1\.00 s, which is 8 frames at 8 fps"),
        ({"min_height": 64}, r"20 smaller than 64×32.*height 32, width 40.*allow_upscale=true"),
    ],
)
def test_no_clip_left_names_every_reason_and_the_way_out(shards, options, said):
    with pytest.raises(ValueError, match=said):
        select(index(*sorted(shards.glob("*.tar"))), need(**options))


def test_shards_without_captions_are_refused(tmp_path, write_shard, make_mp4):
    shard = write_shard(tmp_path / "0.tar", [{"__key__": "a", "mp4": make_mp4()}])
    with pytest.raises(ValueError, match=r"none of 1 samples.*1 no caption.*put key\.txt"):
        select(index(shard), need())
    empty = write_shard(tmp_path / "1.tar", [])
    with pytest.raises(ValueError, match="no sample in 1 shards"):
        select(index(empty), need())


def test_split_is_by_key_and_never_empty_nor_whole(shards):
    found = index(*sorted(shards.glob("*.tar")))
    everything = np.arange(20)
    for share, least in ((1e-9, 1), (0.5, 2), (0.999999, 19)):
        train, held = split(found, everything, share)
        assert sorted([*train, *held]) == everything.tolist()
        assert len(held) >= least
        assert len(train) >= 1
    _, few = split(found, everything[5:], 0.5)
    _, all_held = split(found, everything, 0.5)
    assert set(few) == set(all_held) - set(range(5))
    assert [len(side) for side in split(found, everything[:1], 0.5)] == [1, 0]
    with pytest.raises(ValueError, match=r"val_share must be in \[0, 1\), got 1"):
        split(found, everything, 1)
