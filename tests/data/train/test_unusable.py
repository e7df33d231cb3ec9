"""Samples that cannot be used are replaced or counted; a run that cannot train is refused."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data.index.index_file import read_about, write_index
from data.index.sidecar import ensure_index
from tests.data.sharded import module


def test_a_batch_that_the_ranks_do_not_divide_is_refused(shards):
    with pytest.raises(ValueError, match=r"has 4 clips, which is not a multiple of 3 \(ranks"):
        module(shards).train_loader(first=0, count=1, world=3)


def test_a_sample_that_fails_is_replaced_named_and_counted(
    write_shard, make_clips, tmp_path, caplog
):
    path = write_shard(tmp_path / "a.tar", make_clips(4))
    data = module(path, val_share=0.0, cache_bytes=0)
    data.setup()
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"moov", b"mooo", 1))
    (batch,) = data.train_loader(first=0, count=1)
    assert "clip_0" not in batch["key"]
    assert {f.key for f in data.failures} == {"clip_0"}
    assert "clip_0" in caplog.text
    path.write_bytes(whole.replace(b"moov", b"mooo"))
    with pytest.raises(ValueError, match="16 samples in a row cannot be decoded"):
        list(data.train_loader(first=0, count=1))


def test_too_much_dropped_is_an_error_that_names_every_reason(write_shard, make_clips, tmp_path):
    short = [c | {"__key__": f"short_{i}"} for i, c in enumerate(make_clips(3, frames=2))]
    path = write_shard(tmp_path / "a.tar", make_clips(2) + short)
    match = (
        r"3 of 5 samples \(60%\) are dropped, .*max_dropped=0.5 allows: 3 too short for 4 frames"
    )
    with pytest.raises(ValueError, match=match):
        module(path).setup()
    module(path, max_dropped=0.7).setup()


def test_a_clip_of_too_few_frames_a_second_is_not_taken_for_motion(
    write_shard, make_clips, tmp_path
):
    slow = write_shard(tmp_path / "a.tar", make_clips(4, fps=4))
    with pytest.raises(ValueError, match=r"4 fewer than 7.2 fps.*the highest frame rate is 4"):
        module(slow).setup()
    module(slow, min_rate=0.0).setup()
    module(slow, rates=[[1, 1], [0.5, 1]]).setup()


def test_a_run_without_a_length_is_refused(shards):
    with pytest.raises(ValueError, match="no trainer is attached"):
        module(shards).train_dataloader()


def test_a_failed_validation_clip_takes_nothing_from_training(write_shard, make_clips, tmp_path):
    train = write_shard(tmp_path / "train" / "a.tar", make_clips(4))
    val = write_shard(tmp_path / "val" / "a.tar", make_clips(2))
    data = module(train, val=val, cache_bytes=0)
    data.setup()
    val.write_bytes(val.read_bytes().replace(b"moov", b"mooo", 1))
    list(data.val_loader())
    assert {failure.key for failure in data.failures} == {"clip_0"}
    assert "clip_0" in {k for b in data.train_loader(first=0, count=2) for k in b["key"]}


def test_a_shard_that_cannot_be_read_ends_the_run_and_blames_no_sample(
    write_shard, make_clips, tmp_path
):
    path = write_shard(tmp_path / "a.tar", make_clips(4))
    data = module(path, val_share=0.0, cache_bytes=0)
    data.setup()
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(ValueError, match=r"cannot be read: .* run the same command again"):
        list(data.train_loader(first=0, count=1))
    assert data.failures == []


def test_a_clip_shorter_than_its_index_says_is_replaced(write_shard, make_clips, tmp_path):
    short = make_clips(1, frames=2)
    path = write_shard(tmp_path / "a.tar", short + make_clips(3, first=1))
    index = ensure_index([str(path)])[0]
    table = pq.read_table(index)
    claimed = {n: table[n] for n in table.column_names} | {"duration": pa.array([1.0] * 4)}
    write_index(index, claimed, read_about(index))
    data = module(path, val_share=0.0, cache_bytes=0)
    keys = {k for b in data.train_loader(first=0, count=1) for k in b["key"]}
    assert keys == {"clip_1", "clip_2", "clip_3"}
    assert [failure.key for failure in data.failures] == ["clip_0"]
    assert "by its index it should have 4×16×16" in data.failures[0].reason


def test_options_that_make_no_sense_are_refused(shards):
    wrong = {"global_batch": 0, "validation.val_samples": 0, "clips.max_aspect": 0.5}
    for name, value in wrong.items():
        key = name.rpartition(".")[2]
        message = f"data.{name.replace('val_', '')} must be at least 1, got {value}"
        with pytest.raises(ValueError, match=message):
            module(shards, **{key: value})
    with pytest.raises(ValueError, match="weights must be positive"):
        module({"a": {"shards": "x", "weight": 0.0}})
    with pytest.raises(ValueError, match="weights must be positive"):
        module({})


def test_a_weighted_set_of_which_nothing_suits_is_refused(write_shard, make_clips, tmp_path):
    good = write_shard(tmp_path / "a.tar", make_clips(4))
    short = write_shard(tmp_path / "b.tar", make_clips(3, first=9, frames=2))
    sets = {"a": {"shards": good, "weight": 1.0}, "b": {"shards": short, "weight": 9.0}}
    with pytest.raises(ValueError, match=r"data.shards.b: has weight 9, but none of its samples"):
        module(sets).setup()
