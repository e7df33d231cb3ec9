"""Every text of a user is read by one function, as UTF-8 or by its byte-order mark."""

import json

import pytest

from cascade.files.text import read_text
from data.ingest.sources import find_sources
from tests.data.sharded import indexed, module, tar

TEXT = "un café gris"
MARKED = {
    "plain": TEXT.encode(),
    "utf-8 with a mark": TEXT.encode("utf-8-sig"),
    "utf-16": TEXT.encode("utf-16"),
    "utf-32": TEXT.encode("utf-32"),
}


@pytest.mark.parametrize("name", MARKED)
def test_a_mark_says_the_coding_and_is_removed(name):
    assert read_text(MARKED[name]) == TEXT


def test_what_is_no_text_is_refused_with_its_byte():
    with pytest.raises(ValueError, match="is not UTF-8 text: byte 6 is 0xe9; save it as UTF-8"):
        read_text(TEXT.encode("latin-1"))
    with pytest.raises(ValueError, match="is not UTF-16 text"):
        read_text(TEXT.encode("utf-16")[:-1])


def rewrite(data, coding):
    return data.decode().encode(coding)


@pytest.mark.parametrize("coding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("reader", ["txt", "json", "csv", "jsonl", "tar", "json in a tar"])
def test_every_reader_gives_the_same_caption(reader, coding, tmp_path, make_mp4):
    state, row = json.dumps({"caption": TEXT}), {"path": "a.mp4", "caption": TEXT}
    video = make_mp4()
    (tmp_path / "a.mp4").write_bytes(video)
    texts = {"txt": TEXT, "json": state, "jsonl": json.dumps(row)}
    texts["csv"] = f"path,caption\na.mp4,{TEXT}"
    kind = reader.partition(" ")[0]
    data = rewrite(texts.get(kind, TEXT).encode(), coding)
    if "tar" in reader:
        suffix = "json" if kind == "json" else "txt"
        shard = tar(tmp_path / "a.tar", [("a.mp4", video), (f"a.{suffix}", data)])
        assert [(r["captioned"], r["reason"]) for r in indexed(shard)[0]] == [(True, "")]
        batch = next(iter(module(shard, val_share=0.0).train_loader(first=0, count=1)))
        assert set(batch["caption"]) == {TEXT}
        return
    path = tmp_path / f"a.{kind}"
    path.write_bytes(data)
    (source,) = find_sources(path if kind in ("csv", "jsonl") else tmp_path).sources
    assert (source.caption, source.refused) == (TEXT, "")


@pytest.mark.parametrize("reader", ["txt", "tar"])
def test_bytes_that_are_no_text_are_named_as_the_captions(reader, tmp_path, make_mp4):
    data = TEXT.encode("latin-1")
    if reader == "tar":
        shard = tar(tmp_path / "a.tar", [("a.mp4", make_mp4()), ("a.txt", data)])
        (row,) = indexed(shard)[0]
        assert row["reason"].startswith("its caption: is not UTF-8 text: byte 6")
    else:
        (tmp_path / "a.mp4").write_bytes(b"")
        (tmp_path / "a.txt").write_bytes(data)
        (source,) = find_sources(tmp_path).sources
        assert source.refused.startswith("a.txt cannot be read: is not UTF-8 text: byte 6")
