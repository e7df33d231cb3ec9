"""The cache of decoded videos is shared by forked processes and survives their ends."""

import multiprocessing
import os
import pickle
import signal

import numpy as np
import pytest
import torch

from data.decode.decoder import Decoder
from data.train.clip_cache import ClipCache
from tests.data.sharded import module

FORK = multiprocessing.get_context("fork")


def clip(value, frames=2):
    return torch.full((3, frames, 4, 6), value, dtype=torch.uint8)


def run(work):
    child = FORK.Process(target=work)
    child.start()
    child.join(60)
    return child.exitcode


class Dying(torch.Tensor):
    """A clip whose reader is killed."""

    def numpy(self):
        os.kill(os.getpid(), signal.SIGKILL)


def test_what_one_process_puts_all_others_get():
    cache = ClipCache(np.array([4, 9, 2]), 10_000)
    cache.put(9, clip(7))
    assert cache.get(4) is None

    def other():
        assert torch.equal(cache.get(9), clip(7))
        cache.put(2, clip(5, frames=3))
        cache.put(9, clip(8))  # it is there already

    assert run(other) == 0
    assert torch.equal(cache.get(2), clip(5, frames=3))
    assert torch.equal(cache.get(9), clip(7))


def test_no_more_bytes_are_kept_than_the_limit():
    cache = ClipCache(np.arange(3), 2 * clip(0).numel())
    for row in range(3):
        cache.put(row, clip(row))
    assert [cache.get(row) is not None for row in range(3)] == [True, True, False]


def test_no_row_has_the_video_of_another():
    cache = ClipCache(np.array([4, 9]), 10_000)
    cache.put(9, clip(7))
    for row in (3, 5, 10):
        with pytest.raises(AssertionError, match=f"row {row} is not"):
            cache.get(row)
        with pytest.raises(AssertionError, match=f"row {row} is not"):
            cache.put(row, clip(1))


def test_many_processes_put_each_video_whole_and_once():
    cache = ClipCache(np.arange(40), 40 * clip(0).numel())

    def other():
        for row in range(40):
            found = cache.get(row)
            assert found is None or torch.equal(found, clip(row))
            cache.put(row, clip(row))

    children = [FORK.Process(target=other) for _ in range(4)]
    for child in children:
        child.start()
    for child in children:
        child.join(60)
    assert [child.exitcode for child in children] == [0] * 4
    assert all(torch.equal(cache.get(row), clip(row)) for row in range(40))  # none twice: all fit


def test_a_process_killed_while_it_writes_locks_nothing_and_counts_for_nothing():
    cache = ClipCache(np.arange(2), 10_000)
    assert run(lambda: cache.put(0, clip(1).as_subclass(Dying))) == -signal.SIGKILL
    cache.put(1, clip(3))
    assert cache.get(0) is None
    assert torch.equal(cache.get(1), clip(3))


def test_a_cache_that_is_sent_is_empty_and_its_receivers_own():
    cache = ClipCache(np.arange(2), 10_000)
    cache.put(0, clip(1))
    other = pickle.loads(pickle.dumps(cache))
    assert other.get(0) is None
    other.put(1, clip(2))
    assert cache.get(1) is None


def test_workers_decode_each_video_about_once(write_shard, make_clips, tmp_path, monkeypatch):
    shard = write_shard(tmp_path / "0.tar", make_clips(12, frames=16))
    log = tmp_path / "opened"
    opened = Decoder.open

    def logged(self, data, **options):
        with log.open("a") as file:
            file.write("x")
        return opened(self, data, **options)

    monkeypatch.setattr(Decoder, "open", logged)
    data = module(shard, allow_upscale=True, min_rate=0.0, val_share=0.0)
    batches = list(data.train_loader(first=0, count=12, workers=2))  # four times each
    data.teardown()
    assert len(batches) == 12
    assert 12 <= log.stat().st_size < 24
