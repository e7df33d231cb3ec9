"""Hazards of shards: what plain webdataset makes of each, and what the index makes of it.

The shards are written by webdataset's own writer, or byte by byte; webdataset is the oracle of the
format. `plain` reads as its users do, with the handler that goes on after an error.
"""

import gzip
import tarfile

import pytest
import webdataset

from data.shards.format import split_name
from data.shards.shard import AMBIGUOUS, CUT, DOTTED, DUPLICATE, OUTSIDE
from tests.data.sharded import indexed, link, tar, whole

WHOLE = "caption or json without a video or image"


def plain(*paths):
    """The samples that webdataset gives: key, and its fields without the double underscores."""
    data = webdataset.WebDataset(
        [str(path) for path in paths],
        shardshuffle=False,
        handler=webdataset.ignore_and_continue,
        empty_check=False,
    )
    return [(s["__key__"], {n: v for n, v in s.items() if not n.startswith("__")}) for s in data]


def reasons(path):
    return {row["key"]: row["reason"] for row in indexed(path)[0]}


def cut_at(path, text, before=0):
    """Cut the shard where `text` first is, less `before` bytes."""
    data = path.read_bytes()
    path.write_bytes(data[: data.index(text) - before])
    return path


@pytest.fixture(scope="module")
def one(make_mp4):
    return make_mp4(frames=2)


@pytest.fixture(scope="module")
def two(make_mp4):
    return make_mp4(frames=3, value=50)


def test_truncated_then_the_same_key(tmp_path, write_shard, one, two):
    """webdataset gives the first shard's video with the second shard's caption; ours never."""
    first = write_shard(tmp_path / "0.tar", [{"__key__": "000", "mp4": one, "txt": "of the first"}])
    second = write_shard(
        tmp_path / "1.tar", [{"__key__": "000", "mp4": two, "txt": "of the second"}]
    )
    cut_at(first, b"of the first", before=100)
    assert plain(first, second) == [("000", {"mp4": one, "txt": b"of the second"})]
    rows, about = indexed(first)
    assert [(r["key"], r["reason"], r["captioned"]) for r in rows] == [("000", CUT, False)]
    assert about["error"].startswith("truncated inside the header")
    rows, about = indexed(second)
    assert [(r["reason"], r["frames"], about["error"]) for r in rows] == [("", 3, "")]


def test_cut_in_a_header(tmp_path, one):
    """webdataset gives a sample without its video, without a word; ours says that it is cut."""
    members = [*whole("a", one, b"a"), ("b.txt", b"b"), ("b.mp4", one)]
    path = cut_at(tar(tmp_path / "0.tar", members), b"b.mp4", before=-300)
    assert [(key, set(sample)) for key, sample in plain(path)][1] == ("b", {"txt"})
    assert reasons(path) == {"a": "", "b": CUT}
    assert "truncated inside the header" in indexed(path)[1]["error"]


def test_cut_between_samples(tmp_path, one):
    """webdataset takes what there is for all there was; ours misses the end mark."""
    path = tar(tmp_path / "0.tar", whole("a", one, b"a") + whole("b", one, b"b"))
    cut_at(path, b"b.mp4")
    assert [key for key, _ in plain(path)] == ["a"]
    rows, about = indexed(path)
    assert (len(rows), about["error"]) == (1, "truncated: the end mark is missing")
    assert rows[0]["reason"] == CUT


def test_a_damaged_header(tmp_path, one):
    """webdataset ends there without a word, and loses the rest; ours says how much."""
    path = tar(tmp_path / "0.tar", [m for i in range(4) for m in whole(f"k{i}", one, b"x")])
    data = bytearray(path.read_bytes())
    at = data.index(b"k2.mp4")
    data[at + 150] ^= 1
    path.write_bytes(data)
    assert [key for key, _ in plain(path)] == ["k0", "k1"]
    assert reasons(path) == {"k0": "", "k1": CUT}
    said = f"unreadable from byte {at}: {len(data) - at} bytes were not read"
    assert indexed(path)[1]["error"] == said


def test_tars_joined_by_cat(tmp_path, one):
    """webdataset reads the first alone, without a word; ours names the rest and the way out."""
    a, b = (tar(tmp_path / f"{k}.tar", whole(k, one, b"x")) for k in "ab")
    path = tmp_path / "both.tar"
    path.write_bytes(a.read_bytes() + b.read_bytes())
    assert [key for key, _ in plain(path)] == ["a"]
    assert reasons(path) == {"a": ""}
    start = a.stat().st_size
    said = f"{b.stat().st_size} bytes after the end mark, from byte {start}"
    assert indexed(path)[1]["error"].startswith(said)


def test_interleaved_members(tmp_path, one, two):
    """webdataset gives four halves; ours two samples, each with its own caption."""
    members = [("a.mp4", one), ("b.mp4", two), ("a.txt", b"of a"), ("b.txt", b"of b!")]
    path = tar(tmp_path / "0.tar", members)
    assert [(key, set(sample)) for key, sample in plain(path)] == [
        ("a", {"mp4"}),
        ("b", {"mp4"}),
        ("a", {"txt"}),
        ("b", {"txt"}),
    ]
    rows, about = indexed(path)
    assert [(r["key"], r["frames"], r["caption_size"]) for r in rows] == [("a", 2, 4), ("b", 3, 5)]
    assert (about["interleaved"], about["error"]) == (
        2,
        "2 members are not adjacent to the others of their sample",
    )


def test_a_key_twice_in_a_row(tmp_path, one, two):
    """webdataset mixes them where the first lacks a member; ours takes neither then."""
    mixed = [("a.mp4", one), ("a.txt", b"of the second"), ("a.mp4", two)]
    path = tar(tmp_path / "0.tar", mixed)
    assert plain(path) == [("a", {"mp4": one, "txt": b"of the second"})]
    assert [r["reason"] for r in indexed(path)[0]] == [AMBIGUOUS, AMBIGUOUS]
    path = tar(tmp_path / "1.tar", [("a.mp4", one), *whole("a", two, b"of the second")])
    assert plain(path) == [("a", {"mp4": one, "txt": b"of the second"})]
    assert [r["reason"] for r in indexed(path)[0]] == [AMBIGUOUS, AMBIGUOUS]
    path = tar(tmp_path / "2.tar", whole("a", one, b"1") + whole("a", two, b"2"))
    rows, _ = indexed(path)
    assert [(r["reason"], r["size"]) for r in rows] == [("", len(one)), (DUPLICATE, len(two))]


def test_a_key_twice_apart(tmp_path, one, two):
    """webdataset gives both; ours the first, or, where it cannot be told which is whose, none."""
    members = [*whole("a", one, b"1"), *whole("b", one, b"b"), *whole("a", two, b"2")]
    path = tar(tmp_path / "0.tar", members)
    assert [key for key, _ in plain(path)] == ["a", "b", "a"]
    assert [r["reason"] for r in indexed(path)[0]] == ["", "", DUPLICATE]
    lost = tar(tmp_path / "1.tar", [("a.txt", b"1"), *members[2:4], *members[4:]])
    assert [r["reason"] for r in indexed(lost)[0]] == [AMBIGUOUS, "", AMBIGUOUS]


def test_a_sample_is_known_by_its_key_and_all_its_members(tmp_path, one, two):
    samples = {
        "it": whole("a", one, b"x"),
        "copy": whole("a", one, b"x"),
        "key": whole("b", one, b"x"),
        "text": whole("a", one, b"y"),
        "media": whole("a", two, b"x"),
        "state": [*whole("a", one, b"x"), ("a.json", b"{}")],
    }
    rows = {name: indexed(tar(tmp_path / f"{name}.tar", s))[0][0] for name, s in samples.items()}
    assert {n for n, r in rows.items() if r["sample"] == rows["it"]["sample"]} == {"it", "copy"}
    assert {n for n, r in rows.items() if r["content"] != rows["it"]["content"]} == {"media"}


def test_keys_that_are_not_utf8_stay_apart(tmp_path, one):
    names = [name.encode("latin-1").decode("utf-8", "surrogateescape") for name in ("é", "è")]
    path = tar(tmp_path / "0.tar", [m for n in names for m in whole(n, one, b"x")])
    assert [r["key"] for r in indexed(path)[0]] == [r"\xe9", r"\xe8"]


def test_a_missing_video(tmp_path, write_shard, make_clips):
    """webdataset gives the caption alone; ours counts it with its reason."""
    samples = make_clips(3)
    del samples[1]["mp4"]
    path = write_shard(tmp_path / "0.tar", samples)
    assert [set(sample) for _, sample in plain(path)][1] == {"txt", "json"}
    assert reasons(path) == {"clip_0": "", "clip_1": WHOLE, "clip_2": ""}


@pytest.mark.media
def test_jpegs_named_mp4(media, tmp_path):
    """webdataset gives the bytes under mp4; ours says what they are."""
    path = tmp_path / "00000.tar"
    path.symlink_to(media / "video2dataset" / "00000.tar")
    pictures = [sample["mp4"].startswith(b"\xff\xd8") for _, sample in plain(path)]
    assert pictures == [True] * 3 + [False] * 3
    rows, about = indexed(path)
    assert [r["kind"] for r in rows] == ["image"] * 3 + ["video"] * 3
    assert {r["reason"] for r in rows} == {""}
    assert (about["fit"], about["others"], about["error"]) == (6, {}, "")


def test_an_empty_shard(tmp_path, write_shard):
    """webdataset gives nothing, or raises without the reason; ours says which nothing it is."""
    (tmp_path / "0.tar").touch()
    (tmp_path / "1.tar").write_text("no tar at all" * 100)
    write_shard(tmp_path / "2.tar", [])
    found = [indexed(tmp_path / f"{i}.tar") for i in range(3)]
    assert [len(rows) for rows, _ in found] == [0, 0, 0]
    assert [about["error"] for _, about in found] == [
        "the file is empty; it has no sample",
        "not a tar: its first block is not a header; it has no sample",
        "it has no sample",
    ]


@pytest.mark.parametrize(
    ("name", "pack"),
    [
        ("gzip", gzip.compress),
        ("bzip2", lambda data: __import__("bz2").compress(data)),
        ("xz", lambda data: __import__("lzma").compress(data)),
        ("zstd", lambda data: b"\x28\xb5\x2f\xfd" + data),
    ],
)
def test_a_compressed_tar(tmp_path, one, name, pack):
    """webdataset unpacks it on the way; a place in it cannot be read, so ours names the way out."""
    path = tar(tmp_path / "0.tar", whole("a", one, b"x"))
    path.write_bytes(pack(path.read_bytes()))
    if name != "zstd":
        assert [key for key, _ in plain(path)] == ["a"]
    rows, about = indexed(path)
    assert rows == []
    assert about["error"].startswith(f"compressed by {name}, so samples cannot be read")


def test_keys_with_dots(tmp_path, one):
    """webdataset has one sample `ID` with fields 3.mp4 and 4.mp4; ours refuses, and says how."""
    members = [m for i in "34" for m in whole(f"ID.{i}", one, b"x")]
    members += [*whole("ok", one, b"x"), ("ok.mask.png", b"png"), ("ok.cond.json", b"{}")]
    path = tar(tmp_path / "0.tar", members)
    assert [(key, list(sample)) for key, sample in plain(path)] == [
        ("ID", ["3.mp4", "3.txt", "4.mp4", "4.txt"]),
        ("ok", ["mp4", "txt", "mask.png", "cond.json"]),
    ]
    assert reasons(path) == {"ok": "", "ID.3": DOTTED, "ID.4": DOTTED}
    assert indexed(path)[1]["others"] == {"*.txt": 2, "*.png": 1, "*.json": 1}


def test_a_video_and_its_thumbnail(tmp_path, one, make_jpeg):
    """webdataset gives both; ours takes the video, and counts what it leaves."""
    for order in (("jpg", "mp4", "txt"), ("mp4", "jpg", "txt")):
        files = {"jpg": make_jpeg(), "mp4": one, "txt": b"x"}
        path = tar(tmp_path / "0.tar", [(f"a.{name}", files[name]) for name in order])
        assert set(plain(path)[0][1]) == {"jpg", "mp4", "txt"}
        rows, about = indexed(path)
        assert [(r["kind"], r["reason"]) for r in rows] == [("video", "")]
        assert about["others"] == {"image beside a video": 1}
        path.with_suffix(".index.parquet").unlink()
    path = tar(tmp_path / "1.tar", [("a.mp4", one), ("a.webm", one)])
    assert indexed(path)[1]["others"] == {"webm, a second video": 1}


def test_links(tmp_path, one):
    """webdataset leaves them out without a word; ours never follows them, and counts them."""
    members = [
        link("soft.mp4", "/etc/passwd"),
        ("soft.txt", b"x"),
        *whole("a", one, b"x"),
        link("hard.mp4", "a.mp4", tarfile.LNKTYPE),
        link("a.json", "/etc/passwd"),
        link("folder", "", tarfile.DIRTYPE),
        link("pipe", "", tarfile.FIFOTYPE),
    ]
    path = tar(tmp_path / "0.tar", members)
    assert [(key, set(sample)) for key, sample in plain(path)] == [
        ("soft", {"txt"}),
        ("a", {"mp4", "txt"}),
    ]
    never = "its video is a link, which is not read"
    assert reasons(path) == {"soft": never, "a": "", "hard": never}
    assert indexed(path)[1]["others"] == {"link": 1, "folder": 1, "device": 1}


def test_names_that_lead_out(tmp_path, one):
    """webdataset gives them with such keys; ours counts them, and reads nothing."""
    members = [
        *whole("/etc/a", one, b"x"),
        *whole("../b", one, b"x"),
        *whole("c/../../d", one, b"x"),
    ]
    path = tar(tmp_path / "0.tar", [*members, *whole("./sub/e", one, b"x"), ("/etc/f.npy", b"")])
    assert [key for key, _ in plain(path)][:3] == ["/etc/a", "../b", "c/../../d"]
    assert reasons(path) == {"/etc/a": OUTSIDE, "../b": OUTSIDE, "c/../../d": OUTSIDE, "sub/e": ""}
    assert indexed(path)[1]["others"] == {"name that points outside the shard": 3, "npy": 1}
    assert {r["size"] for r in indexed(path)[0][:3]} == {0}


def test_what_is_no_sample_is_counted(tmp_path, one):
    """Like webdataset, ours leaves metadata and hidden files; and counts them in few words."""
    hidden = [(f"._clip{i}.mp4", b"x") for i in range(50)]
    odd = [(f"a.{'x' * 30}{i}", b"") for i in range(50)]
    path = tar(tmp_path / "0.tar", [("__meta__", b""), *hidden, *whole("a", one, b"x"), *odd])
    assert [key for key, _ in plain(path)] == ["a"]
    assert indexed(path)[1]["others"] == {
        "metadata of webdataset": 1,
        "hidden file": 50,
        "x" * 16: 50,
    }
    many = tar(tmp_path / "1.tar", [(f"a.e{i}", b"") for i in range(99)])
    assert indexed(many)[1]["others"]["of other kinds"] == 99 - 32


def test_keys_are_those_of_webdataset():
    for name in ("a.mp4", "a/b.c/id.3.MP4", "dir.x/a.tar.gz", "ä.txt"):
        assert split_name(name) == (
            (key := webdataset.tariterators.base_plus_ext(name))[0],
            key[1].lower(),
        )
