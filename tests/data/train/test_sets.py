"""A sample is known by its shard, its key and its content, never by its key alone."""

import pytest

from data.index.sidecar import index_path
from data.shards.caption import captions_path, write_captions
from tests.data.sharded import module


@pytest.fixture
def folders(tmp_path, write_shard, make_clips):
    """Two folders of shards, numbered alike, as img2dataset numbers every set."""
    names = ("one", "two")
    for name, first in zip(names, (0, 10), strict=True):
        samples = make_clips(4, first=first)
        for number, sample in enumerate(samples):
            sample |= {"__key__": f"{number:08d}", "txt": f"{name} {number}"}
        write_shard(tmp_path / name / "00000.tar", samples)
    return [tmp_path / name for name in names]


def captions_of(data, count=8):
    return {c for b in data.train_loader(first=0, count=count) for c in b["caption"]}


EVERY = {f"{name} {number}" for name in ("one", "two") for number in range(4)}


@pytest.mark.parametrize("weighted", [False, True])
def test_equal_keys_of_other_samples_all_train(folders, weighted):
    sets = {f.name: {"shards": str(f), "weight": 0.5} for f in folders} if weighted else folders
    data = module(sets, val_share=0.0)
    assert captions_of(data) == EVERY
    assert data.chosen.dropped == {}


def test_a_copy_is_used_once_in_its_set_and_named(folders, tmp_path):
    copy = tmp_path / "copied" / "other.tar"
    copy.parent.mkdir()
    copy.write_bytes((folders[0] / "00000.tar").read_bytes())
    data = module([*folders, copy.parent], val_share=0.0)
    assert captions_of(data) == EVERY
    assert data.chosen.dropped == {"copy of a sample in another shard": 4}
    sets = {f.name: {"shards": str(f), "weight": 1.0} for f in (folders[0], copy.parent)}
    both = module(sets, val_share=0.0)
    both.setup()
    assert len(both.pool.rows) == 8


def test_copies_of_a_video_are_all_held_out_or_all_trained(tmp_path, write_shard, make_clips):
    samples = [
        sample | {"__key__": f"{sample['__key__']}_{n}", "txt": f"caption {n}"}
        for sample in make_clips(6)
        for n in range(3)
    ]
    data = module(write_shard(tmp_path / "a.tar", samples), val_share=0.3)
    held = {k[:-2] for b in data.val_loader() for k in b["key"]}
    trained = {k[:-2] for b in data.train_loader(first=0, count=30) for k in b["key"]}
    assert held
    assert trained
    assert not held & trained
    assert len(data.held) % 3 == 0


def test_one_video_alone_is_not_split(tmp_path, write_shard, make_clips, caplog):
    (sample,) = make_clips(1)
    samples = [sample | {"__key__": f"k{n}"} for n in range(3)]
    data = module(write_shard(tmp_path / "a.tar", samples), val_share=0.3)
    data.setup()
    assert len(data.pool.rows) == 3
    assert "no sample is held out" in caplog.text


def test_a_failure_says_nothing_of_the_same_key_elsewhere(folders, tmp_path):
    data = module(folders, val_share=0.0, cache_bytes=0)
    data.setup()
    path = folders[1] / "00000.tar"
    path.write_bytes(path.read_bytes().replace(b"moov", b"mooo", 1))
    assert captions_of(data) == EVERY - {"two 0"}
    (failure,) = data.failures
    assert (failure.shard, failure.key) == (str(path), "00000000")


def test_new_captions_belong_to_their_shards_keys(folders):
    data = module(folders, val_share=0.0, captions={"long": 1.0})
    data.prepare_data()
    for folder in folders:
        made = {"00000000": {"long": f"{folder.name}, longer"}}
        path = captions_path(index_path(str(folder / "00000.tar"), None))
        write_captions(path, made, note={})
    longer = {f"{f.name}, longer" for f in folders}
    assert captions_of(module(folders, val_share=0.0, captions={"long": 1.0})) == (
        EVERY - {"one 0", "two 0"} | longer
    )
