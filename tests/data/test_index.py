"""The index says of every sample where it is and whether it is fit, and never trusts a tar."""

import io
import json
import logging
import tarfile

import pyarrow.parquet as pq
import pytest

from data.index import (
    SCHEMA,
    build_index,
    ensure_index,
    index_path,
    is_fresh,
    read_about,
)
from data.sample import read_state, role, split_name
from data.store import find_shards


def rows(shard):
    path = shard.with_suffix(".index.parquet")
    build_index(str(shard), path)
    return pq.read_table(path).to_pylist(), read_about(path)


def tar(path, members):
    with tarfile.open(path, "w") as file:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    return path


def test_key_ends_at_the_first_dot():
    assert split_name("a/b.c/id.3.MP4") == ("a/b.c/id", "3.mp4")
    assert split_name("id.mp4") == ("id", "mp4")
    assert split_name("id") == ("id", "")
    assert (role("webm"), role("png"), role("3.mp4")) == ("video", "image", None)


@pytest.mark.parametrize("data", [b"{", b"[1]", b"\xff", b"[" * 100_000])
def test_json_that_is_no_object_is_refused(data):
    with pytest.raises(ValueError, match="json"):
        read_state(data)


def test_index_of_a_sound_shard(shards):
    found, about = rows(shards / "00000.tar")
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
    found, about = rows(
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
    assert "no bytes" in by_key["empty"]["reason"]
    assert "container does not open" in by_key["noise"]["reason"]
    assert by_key["cut"]["reason"]
    assert "utf-8" in by_key["latin"]["reason"]
    assert "json does not parse" in by_key["badjson"]["reason"]
    picture = by_key["picture"]
    assert (picture["kind"], picture["codec"], picture["frames"]) == ("image", "jpeg", 1)
    assert about["others"] == {"npy": 1, "3.mp4": 1}


def test_interleaved_members_find_their_sample(tmp_path, make_mp4):
    one, two = make_mp4(frames=2), make_mp4(frames=3)
    names = [("a.mp4", one), ("b.mp4", two), ("a.txt", b"one"), ("b.txt", b"two")]
    found, about = rows(tar(tmp_path / "a.tar", names))
    assert [(r["key"], r["frames"], r["captioned"]) for r in found] == [
        ("a", 2, True),
        ("b", 3, True),
    ]
    assert about["interleaved"] == 2
    assert "lie apart" in about["error"]


@pytest.mark.parametrize("share", [0.2, 0.33, 0.5, 0.7])
def test_a_truncated_shard_gives_what_is_whole(shards, tmp_path, share):
    whole, _ = rows(shards / "00000.tar")
    data = (shards / "00000.tar").read_bytes()
    cut = tmp_path / "cut.tar"
    cut.write_bytes(data[: int(len(data) * share)])
    found, about = rows(cut)
    assert "truncated" in about["error"] or "not a whole tar" in about["error"]
    assert 0 < len(found) < 12
    assert [r["offset"] for r in found[:-1]] == [r["offset"] for r in whole[: len(found) - 1]]
    for row in found:
        assert row["offset"] + row["size"] <= cut.stat().st_size


def test_empty_and_foreign_files(tmp_path):
    (tmp_path / "empty.tar").touch()
    (tmp_path / "text.tar").write_text("no tar at all" * 100)
    assert "the file is empty" in rows(tmp_path / "empty.tar")[1]["error"]
    assert "not a whole tar" in rows(tmp_path / "text.tar")[1]["error"]
    assert "holds no sample" in rows(tar(tmp_path / "none.tar", []))[1]["error"]


def test_links_and_paths_out_of_the_tar_are_only_counted(tmp_path, make_mp4):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as file:
        link = tarfile.TarInfo("evil.mp4")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        file.addfile(link)
    tar_rows, about = rows(path)
    assert (tar_rows, about["others"]) == ([], {"not a file": 1})


def test_a_changed_shard_is_indexed_again(tmp_path, write_shard, make_clips, caplog):
    shard = write_shard(tmp_path / "a.tar", make_clips(1))
    (path,) = ensure_index([str(shard)])
    assert is_fresh(str(shard), path)
    assert pq.read_schema(path).equals(SCHEMA)
    data = bytearray(shard.read_bytes())
    data[data.index(b"caption 0")] = ord("C")
    shard.write_bytes(data)
    assert not is_fresh(str(shard), path)
    ensure_index([str(shard)])
    assert is_fresh(str(shard), path)
    shard.write_bytes(data)  # another time, the same bytes
    assert is_fresh(str(shard), path)
    path.write_bytes(b"PAR1")
    assert not is_fresh(str(shard), path)
    assert "does not read" in caplog.text
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_a_folder_that_cannot_be_written_gets_its_index_elsewhere(
    tmp_path, write_shard, make_clips, caplog
):
    caplog.set_level(logging.INFO)
    shard = write_shard(tmp_path / "ro" / "a.tar", make_clips(1))
    shard.parent.chmod(0o555)
    cache = tmp_path / "cache"
    (path,) = ensure_index([str(shard)], cache_dir=cache)
    assert path == index_path(str(shard), cache)
    assert str(path.parent) in caplog.text
    assert [p.name for p in shard.parent.iterdir()] == ["a.tar"]
    (path,) = ensure_index([str(shard)], index_dir=tmp_path / "given")
    assert path.is_relative_to(tmp_path / "given")
    shard.parent.chmod(0o755)


def test_ways_to_name_shards(shards, tmp_path):
    both = [str(shards / "00000.tar"), str(shards / "00001.tar")]
    assert find_shards(str(shards)) == find_shards(f"{shards}/*.tar") == both
    assert find_shards(f"{shards}/{{00000..00001}}.tar") == find_shards(both) == both
    assert find_shards([shards, both[0]]) == both
    with pytest.raises(ValueError, match="names no tar file"):
        find_shards(tmp_path)
    with pytest.raises(ValueError, match="runs something"):
        find_shards("pipe:curl x")


@pytest.mark.media
def test_video2dataset_shard(media, tmp_path):
    path = tmp_path / "v.parquet"
    build_index(str(media / "video2dataset" / "00000.tar"), path)
    found = pq.read_table(path).to_pylist()
    assert [r["kind"] for r in found] == ["image"] * 3 + ["video"] * 3
    assert {r["reason"] for r in found} == {""}
