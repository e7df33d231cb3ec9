"""Shards are indexed by many processes: no clip is tried twice, whatever is killed or fails."""

import os
import subprocess
import sys
import threading
import time
from typing import ClassVar

import pytest

from cascade.media.reason import DecodeError
from data.index import indexer
from data.index.sidecar import ensure_index
from data.shards.store import identity
from tests.data.sharded import indexed


class Counting(indexer.Decoder):
    """Counts what it tries; `found` is what it finds, or raises."""

    tried: ClassVar[list[bytes]] = []
    depths: ClassVar[set[str]] = set()
    slow = 0.0

    def inspect(self, data, depth):
        self.tried.append(data)
        self.depths.add(depth)
        time.sleep(self.slow)
        return super().inspect(data, depth)


@pytest.fixture
def counting(monkeypatch):
    """A decoder that counts, in the place of the one that indexing uses."""
    fresh_class = type("Fresh", (Counting,), {"tried": [], "depths": set()})
    monkeypatch.setattr(indexer, "Decoder", fresh_class)
    return fresh_class


def test_a_deeper_index_serves_and_a_lesser_one_is_rebuilt(
    tmp_path, write_shard, make_clips, counting
):
    shard = write_shard(tmp_path / "a.tar", make_clips(3))
    for depth, tries in (
        ("keyframes", 3),
        ("probe", 3),
        ("full", 6),
        ("keyframes", 6),
        ("full", 6),
    ):
        _, about = indexed(shard, depth)
        assert len(counting.tried) == tries
    assert about["depth"] == "full"
    assert counting.depths == {"keyframes", "full"}


def test_a_kill_costs_no_clip_that_was_tried(tmp_path, write_shard, make_clips, counting):
    """SIGKILL inside a shard, several times: nothing half written, nothing tried twice."""
    clips = make_clips(60)
    shard = write_shard(tmp_path / "a" / "0.tar", clips)
    script = (
        "import sys, time; from data.index import indexer, sidecar\n"
        "class Slow(indexer.Decoder):\n"
        "    def inspect(self, *given):\n"
        "        time.sleep(0.02)\n"
        "        return super().inspect(*given)\n"
        "indexer.Decoder = Slow\n"
        "sidecar.ensure_index([sys.argv[1]], depth='probe', workers=2)\n"
    )
    part = shard.with_name(".0.index.journal")
    known = 0
    for wait in (5, 17):
        child = subprocess.Popen(
            [sys.executable, "-c", script, str(shard)], stderr=subprocess.DEVNULL
        )
        while not part.exists() or part.read_bytes().count(b"\n") - 1 < known + wait:
            assert child.poll() is None
            time.sleep(0.002)
        child.kill()
        child.wait()
        assert sorted(p.name for p in shard.parent.iterdir()) == [".0.index.journal", "0.tar"]
        assert part.read_bytes().count(b"\n") - 1 >= known + wait
        known = part.read_bytes().count(b"\n") - 1
    with part.open("ab") as file:
        file.write(b"[123, 45, {half a line")
    found, _ = indexed(shard)
    assert len(counting.tried) == 60 - known
    assert sorted(p.name for p in shard.parent.iterdir()) == ["0.index.parquet", "0.tar"]
    whole = write_shard(tmp_path / "b" / "0.tar", [])
    whole.write_bytes(shard.read_bytes())
    os.utime(whole, ns=(0, identity(str(shard)).mark and int(identity(str(shard)).mark)))
    assert indexed(whole)[0] == found
    assert whole.with_suffix(".index.parquet").read_bytes() == (
        shard.with_suffix(".index.parquet").read_bytes()
    )


def test_what_was_found_in_another_shard_or_at_another_depth_is_not_taken(
    tmp_path, write_shard, make_clips, counting
):
    shard = write_shard(tmp_path / "a.tar", make_clips(2))
    part = shard.with_name(".a.index.journal")
    part.write_text('{"version": 0}\n[2048, 5, {}]\n')
    indexed(shard)
    assert len(counting.tried) == 2
    assert not part.exists()


def test_an_error_of_ours_stops_all_and_the_next_try_goes_on(
    tmp_path, write_shard, make_clips, counting, monkeypatch
):
    shards = [write_shard(tmp_path / f"{i}.tar", make_clips(30, first=30 * i)) for i in range(3)]
    inspect = counting.inspect

    def broken(self, data, depth):
        if len(self.tried) == 40:
            raise KeyError("a mistake in the program")
        return inspect(self, data, depth)

    monkeypatch.setattr(counting, "inspect", broken)
    with pytest.raises(KeyError, match="a mistake"):
        ensure_index([str(s) for s in shards], depth="probe", workers=1)
    assert len(counting.tried) == 40
    monkeypatch.setattr(counting, "inspect", inspect)
    ensure_index([str(s) for s in shards], depth="probe")
    assert len(counting.tried) == 90


def test_what_is_broken_off_tells_nothing_of_its_clip(monkeypatch):
    """A process that was killed because the user stops it has not found its clip unfit."""

    class Killed:
        def __init__(self):
            self.begun, self.killed = began, threading.Event()

        def inspect(self, data, depth):
            self.begun.set()
            assert self.killed.wait(20)
            raise DecodeError("crashed (SIGKILL)")

        def close(self):
            self.killed.set()

    began, kept = threading.Event(), []
    monkeypatch.setattr(indexer, "Decoder", Killed)
    with indexer.Inspectors(depth="probe", workers=1) as inspectors:
        running, waiting = (inspectors.submit(lambda: b"clip", kept.append) for _ in range(2))
        assert began.wait(20)
        inspectors.stop()
        for future in (running, waiting):
            with pytest.raises(indexer.StoppedError):
                future.result(20)
        with pytest.raises(indexer.StoppedError):
            inspectors.check()
    assert kept == []


def test_shards_that_cannot_be_read_do_not_hold_up_the_others(
    tmp_path, write_shard, make_clips, monkeypatch
):
    shards = [write_shard(tmp_path / f"{i}.tar", make_clips(2)) for i in range(3)]
    open_shard = indexer.open_shard

    def failing(shard):
        if shard.endswith("1.tar"):
            raise OSError(f"{shard}: the disk has gone")
        return open_shard(shard)

    monkeypatch.setattr(indexer, "open_shard", failing)
    with pytest.raises(
        ValueError, match=r"1 of 3 shards cannot be read: .*1\.tar: the disk has gone"
    ):
        ensure_index([str(s) for s in shards], depth="probe")
    assert [p.name for p in sorted(tmp_path.glob("*.parquet"))] == [
        "0.index.parquet",
        "2.index.parquet",
    ]
