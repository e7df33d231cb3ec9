"""The index says of every sample where it is and whether it is fit, and never trusts a tar."""

import json
import logging
import sys
import time

import numpy as np
import pyarrow.parquet as pq
import pytest

from data.index import indexer
from data.index.__main__ import main
from data.index.index_file import SCHEMA, read_about, write_index
from data.index.sidecar import (
    ensure_index,
    index_path,
    is_fresh,
)
from data.shards.format import read_state, role, split_name
from data.shards.store import identity
from tests import commands
from tests.data.sharded import indexed, tar
from tests.data.synthetic import write_synthetic


def fresh(shard, path, depth="probe"):
    return is_fresh(str(shard), identity(str(shard)), path, depth)


def test_key_ends_at_the_first_dot():
    assert split_name("a/b.c/id.3.MP4") == ("a/b.c/id", "3.mp4")
    assert split_name("id.mp4") == ("id", "mp4")
    assert split_name("id") == ("id", "")
    assert (role("webm"), role("png"), role("3.mp4")) == ("video", "image", None)


@pytest.mark.parametrize("data", [b"{", b"[1]", b"\xff", b"[" * 100_000])
def test_json_that_is_no_object_is_refused(data):
    with pytest.raises(ValueError, match="JSON"):
        read_state(data)


def test_index_of_a_sound_shard(shards):
    found, about = indexed(shards / "00000.tar")
    assert [r["key"] for r in found] == [f"clip_{i}" for i in range(12)]
    first = found[0]
    assert (first["height"], first["width"], first["frames"], first["fps"]) == (32, 40, 8, 8.0)
    assert (first["duration"], first["kind"], first["codec"]) == (1.0, "video", "h264")
    assert {r["reason"] for r in found} == {""}
    assert all(r["captioned"] for r in found)
    assert (about["error"], about["others"], about["interleaved"]) == ("", {}, 0)
    data = (shards / "00000.tar").read_bytes()
    start, size = first["caption_offset"], first["caption_size"]
    assert data[start : start + size] == b"caption 0"


def test_every_unfit_sample_has_its_reason(tmp_path, make_mp4, make_jpeg):
    video = make_mp4()
    found, about = indexed(
        tar(
            tmp_path / "a.tar",
            [
                ("good.mp4", video),
                ("good.txt", b"fine"),
                ("good.npy", b"ignored"),
                ("alone.txt", b"a caption without a video"),
                ("mute.mp4", video),
                ("blank.mp4", video),
                ("blank.txt", b"  \n"),
                ("spoken.mp4", video),
                ("spoken.json", json.dumps({"caption": "from json"}).encode()),
                ("empty.mp4", b""),
                ("noise.mp4", bytes(range(256)) * 4),
                ("cut.mp4", video[: len(video) // 2]),
                ("latin.mp4", video),
                ("latin.txt", b"caf\xe9"),
                ("badjson.mp4", video),
                ("badjson.json", b"{"),
                ("picture.mp4", make_jpeg()),
                ("picture.txt", b"a jpeg named mp4"),
                ("good.mp4", video),
                ("good.txt", b"again"),
                ("id.3.mp4", video),
            ],
        )
    )
    by_key = {r["key"]: r for r in reversed(found)}
    assert by_key["good"]["reason"] == ""
    assert [r["reason"] for r in found if r["key"] == "good"] == ["", "duplicate key"]
    assert by_key["alone"]["reason"] == "caption or json without a video or image"
    assert [by_key[k]["captioned"] for k in ("mute", "blank", "spoken")] == [False, False, True]
    assert "is empty" in by_key["empty"]["reason"]
    assert "Invalid data" in by_key["noise"]["reason"]
    assert by_key["cut"]["reason"]
    assert "its caption: is not UTF-8 text" in by_key["latin"]["reason"]
    assert "its json: invalid JSON" in by_key["badjson"]["reason"]
    picture = by_key["picture"]
    assert (picture["kind"], picture["codec"], picture["frames"]) == ("image", "jpeg", 1)
    assert about["others"] == {"npy": 1}
    assert about["fit"] == sum(not r["reason"] for r in found) == 5
    assert sum(about["unfit"].values()) == len(found) - 5


@pytest.mark.parametrize("share", [0.2, 0.33, 0.5, 0.7])
def test_a_truncated_shard_gives_what_is_whole(shards, tmp_path, share):
    whole, _ = indexed(shards / "00000.tar")
    data = (shards / "00000.tar").read_bytes()
    cut = tmp_path / "cut.tar"
    cut.write_bytes(data[: int(len(data) * share)])
    found, about = indexed(cut)
    assert "truncated" in about["error"]
    assert 0 < len(found) < 12
    assert found[-1]["reason"]
    assert [r["offset"] for r in found[:-1]] == [r["offset"] for r in whole[: len(found) - 1]]
    for row in found:
        assert row["offset"] + row["size"] <= cut.stat().st_size


def test_a_changed_shard_is_indexed_again(tmp_path, write_shard, make_clips, caplog):
    shard = write_shard(tmp_path / "a.tar", make_clips(1))
    (path,) = ensure_index([str(shard)], depth="probe")
    assert fresh(shard, path)
    assert pq.read_schema(path).equals(SCHEMA)
    data = bytearray(shard.read_bytes())
    data[data.index(b"caption 0")] = ord("C")
    shard.write_bytes(data)
    assert not fresh(shard, path)
    ensure_index([str(shard)], depth="probe")
    assert fresh(shard, path)
    shard.write_bytes(data)  # another time, the same bytes
    before = read_about(path)
    assert fresh(shard, path)
    assert read_about(path) == before | {"mark": identity(str(shard)).mark}  # not hashed again
    assert pq.read_schema(path).equals(SCHEMA)
    path.write_bytes(b"PAR1")
    assert not fresh(shard, path)
    assert "the index cannot be read" in caplog.text
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_a_folder_that_cannot_be_written_gets_its_index_elsewhere(
    tmp_path, write_shard, make_clips, caplog
):
    caplog.set_level(logging.INFO)
    shard = write_shard(tmp_path / "ro" / "a.tar", make_clips(1))
    shard.parent.chmod(0o555)
    cache = tmp_path / "cache"
    (path,) = ensure_index([str(shard)], depth="probe", cache_dir=cache)
    assert path == index_path(str(shard), cache)
    assert str(path.parent) in caplog.text
    assert [p.name for p in shard.parent.iterdir()] == ["a.tar"]
    (path,) = ensure_index([str(shard)], index_dir=tmp_path / "given")
    assert path.is_relative_to(tmp_path / "given")
    shard.parent.chmod(0o755)


def test_texts_and_clips_of_monstrous_size_are_refused(tmp_path, make_mp4, monkeypatch):
    monkeypatch.setattr(indexer, "MAX_CLIP_BYTES", 2000)
    members = [("a.mp4", bytes(2001)), ("b.mp4", b""), ("b.txt", bytes(2**20 + 1))]
    found, _ = indexed(tar(tmp_path / "a.tar", members))
    assert [r["reason"] for r in found] == [
        "has 2001 bytes, more than the limit of 2000",
        "its caption has 1048577 bytes, more than the limit of 1048576",
    ]


def test_an_index_of_columns_is_read_by_columns(tmp_path):
    n = 5
    columns = {
        "key": [f"k{i}" for i in range(n)],
        "content": np.arange(n, dtype=np.uint64) + 2**63,
        "sample": np.arange(n, dtype=np.uint64),
        "kind": ["video"] * n,
        "reason": ["", "damaged", "", "damaged", "short"],
        **{name: np.arange(n) for name in SCHEMA.names if SCHEMA.field(name).type == "int64"},
        **{name: np.arange(n, dtype=np.int32) for name in ("width", "height", "frames")},
        "fps": np.full(n, 24.0),
        "duration": np.full(n, 1.5),
        "codec": ["h264"] * n,
        "decord": [False] * n,
        "captioned": [True] * n,
    }
    path = tmp_path / "deep" / "a.index.parquet"
    write_index(path, columns, {"version": 0})
    table = pq.ParquetFile(path).read(["content", "reason"])
    reason = table["reason"].chunk(0)
    assert reason.indices.to_pylist() == [0, 1, 0, 1, 2]
    assert reason.dictionary.to_pylist() == ["", "damaged", "short"]
    assert table["content"].to_pylist()[-1] == 2**63 + 4


def test_many_lines_read_in_little_time(tmp_path):
    """Ten million lines are to load in 5 CPU-seconds and 400 MB; here a fiftieth of them."""
    _, paths = write_synthetic(tmp_path, shards=20)
    numbers = ["content", "sample", "width", "height", "fps", "duration", "captioned"]
    start, held = time.process_time(), 0
    for path in paths:
        table = pq.ParquetFile(path).read([*numbers, "kind", "reason"], use_threads=False)
        held += sum(table[name].nbytes for name in [*numbers, "kind", "reason"])
        assert {"", "duplicate key"} < set(table["reason"].chunk(0).dictionary.to_pylist())
    assert time.process_time() - start < 0.1 * 5
    assert held < 45 * 200_000
    lines = pq.read_table(paths[3]).to_pylist()
    assert len({line["key"] for line in lines}) == 10_000
    assert 0.005 < sum(line["reason"] == "duplicate key" for line in lines) / 10_000 < 0.01


def test_the_command(tmp_path, write_shard, make_clips, monkeypatch):
    """It writes the indices, and ends with every reason and its count; a mistake is one line."""
    samples = make_clips(2)
    samples[1]["mp4"] = samples[1]["mp4"][:400]
    write_shard(tmp_path / "0.tar", samples)
    (tmp_path / "1.tar").touch()
    command = ("data.index", f"shards={tmp_path}")
    done = commands.run(*command, "depth=probe")
    assert done.returncode == 0, done.stderr
    for said in ("2 shards, 2 samples", "1 │ usable", "1 │ unusable: ", "1.tar: the file is empty"):
        assert said in done.stdout
    assert len(list(tmp_path.glob("*.index.parquet"))) == 2
    done = commands.run(*command, "depth=deep")
    assert done.returncode == 1
    assert done.stderr.startswith("error: depth=deep: must be one of probe, keyframes, full")
    monkeypatch.setattr(sys, "argv", ["index"])
    with pytest.raises(SystemExit, match="shards is missing; .*make index SHARDS="):
        main()
