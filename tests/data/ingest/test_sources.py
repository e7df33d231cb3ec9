import json
from collections import Counter

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data.ingest.sources import Columns, find_sources, is_shards


def test_a_folder_is_read_in_order_with_what_lies_beside(videos):
    found = find_sources(videos)
    assert [source.path for source in found.sources] == sorted(s.path for s in found.sources)
    some = {source.path: source for source in found.sources}["some/video.3.mp4"]
    assert some.caption == "caption 3"
    assert found.others == {".md": 1}
    assert len({source.digest for source in found.sources}) == len(found.sources)


def test_a_json_beside_brings_caption_and_columns_and_a_text_goes_first(tmp_path, videos):
    data = (videos / "some/video.0.mp4").read_bytes()
    (tmp_path / "a.mp4").write_bytes(data)
    (tmp_path / "a.json").write_text(json.dumps({"caption": "from json", "who": "me"}))
    (tmp_path / "b.mp4").write_bytes(data)
    (tmp_path / "b.json").write_text(json.dumps({"caption": "from json"}))
    (tmp_path / "b.txt").write_text("from text")
    (tmp_path / "c.mp4").write_bytes(data)
    (tmp_path / "c.json").write_text("{broken")
    a, b, c = find_sources(tmp_path).sources
    assert (a.caption, a.columns["who"]) == ("from json", "me")
    assert b.caption == "from text"
    assert "c.json cannot be read" in c.refused


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_a_lists_paths_are_relative_to_it_and_its_columns_are_kept(tmp_path, videos, kind):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/x.mp4").write_bytes((videos / "some/video.0.mp4").read_bytes())
    rows = [
        {"path": "sub/x.mp4", "caption": 'a "cat", sits', "score": 0.5},
        {"path": "gone.mp4", "caption": "", "score": 1.5},
        {"path": "sub/x.mp4", "caption": "again", "score": 2.5},
        {"path": "https://example.org/x.mp4", "caption": "far", "score": 3.5},
    ]
    place = tmp_path / f"list.{kind}"
    if kind == "jsonl":
        place.write_text("\n".join(json.dumps(row) for row in rows))
    elif kind == "csv":
        lines = [
            f'{r["path"]},"{r["caption"].replace(chr(34), 2 * chr(34))}",{r["score"]}' for r in rows
        ]
        place.write_text("\n".join(["path,caption,score", *lines]))
    else:
        pq.write_table(pa.Table.from_pylist(rows), place)
    first, gone, again, far = find_sources(place).sources
    assert (first.caption, first.columns) == ('a "cat", sits', {"score": 0.5})
    assert first.file == str(tmp_path / "sub/x.mp4")
    assert not first.refused
    assert "No such file" in gone.refused
    assert "row 1 counts" in again.refused
    assert "is a URL" in far.refused


def test_what_cannot_be_a_list_of_sources_says_why(tmp_path):
    with pytest.raises(ValueError, match="has no video or image"):
        find_sources(tmp_path)
    with pytest.raises(ValueError, match="must be a folder, a list"):
        find_sources(tmp_path / "nowhere")
    (tmp_path / "a.csv").write_text("file,caption\nx.mp4,hello\n")
    with pytest.raises(ValueError, match=r"no column 'path'; its columns are file, caption; name"):
        find_sources(tmp_path / "a.csv")
    (tmp_path / "a.csv").write_text("path,caption\nx.mp4,hello\n,world\n")
    with pytest.raises(ValueError, match="row 2 must have a text in column 'path', got ''"):
        find_sources(tmp_path / "a.csv")
    (tmp_path / "a.jsonl").write_text('{"path": "x.mp4", "clip": 1}')
    with pytest.raises(ValueError, match="column name 'clip' is reserved"):
        find_sources(tmp_path / "a.jsonl")


def test_shards_are_known_and_not_mixed_with_media(tmp_path, videos):
    (tmp_path / "0.tar").write_bytes(b"")
    assert is_shards(tmp_path)
    assert is_shards(tmp_path / "{00..09}.tar")
    assert not is_shards(videos)
    (tmp_path / "a.mp4").write_bytes(b"")
    with pytest.raises(ValueError, match=r"both shards and media, such as a\.mp4"):
        is_shards(tmp_path)


def test_a_captions_column_that_is_missing_is_told_and_can_be_named(tmp_path, caplog):
    place = tmp_path / "list.csv"
    place.write_text("file,text\na.mp4,hello\n")
    columns = Columns(path="file", caption="text")
    assert find_sources(place, columns).sources[0].caption == "hello"
    assert not caplog.records
    found = find_sources(place, Columns(path="file"))
    assert "has no column 'caption'; its columns are file, text: no clip gets a caption" in (
        caplog.text
    )
    assert str(found).startswith("1 sources, 0 of them with a caption; refused: 1 cannot be read")
    with pytest.raises(ValueError, match="no column 'txt'; its columns are file, text; name the"):
        find_sources(place, Columns(path="file", caption="txt"))
    (tmp_path / "a.mp4").write_bytes(b"")
    (tmp_path / "a.json").write_text('{"text": "of the json"}')
    assert find_sources(tmp_path, columns).sources[0].caption == "of the json"


@pytest.mark.parametrize(
    ("names", "captions", "others"),
    [
        (["DSC01.MP4", "DSC01.TXT"], {"DSC01.MP4": "DSC01.TXT"}, {}),
        (["DSC01.MP4", "dsc01.txt"], {"DSC01.MP4": "dsc01.txt"}, {}),
        (["a.mp4", "A.mp4", "a.txt"], {"a.mp4": "a.txt", "A.mp4": ""}, {}),
        (["a.mp4", "a.txt", "a.TXT"], {"a.mp4": "a.txt"}, {".txt": 1}),
        (["a.Mp4", "b.Txt"], {"a.Mp4": ""}, {".txt": 1}),
        (["a.b.mp4", "a.txt", "a.b.txt"], {"a.b.mp4": "a.b.txt"}, {".txt": 1}),
        (["a.mp4", ".a.txt", ".b.mp4"], {"a.mp4": ""}, {".txt": 1, ".mp4": 1}),
    ],
)
def test_a_text_goes_with_the_file_of_its_name_in_any_case(tmp_path, names, captions, others):
    for name in names:
        (tmp_path / name).write_text(name)
    found = find_sources(tmp_path)
    assert {source.path: source.caption for source in found.sources} == captions
    assert found.others == others


def test_linked_folders_are_read_once_and_circles_are_counted(tmp_path):
    inside, outside = tmp_path / "from", tmp_path / "disk"
    for folder in (inside / "own", outside / "deep"):
        folder.mkdir(parents=True)
        (folder / "v.mp4").write_bytes(b"")
    (inside / "linked").symlink_to(outside)
    (inside / "again").symlink_to(outside / "deep")
    (inside / "own" / "same").symlink_to(inside / "own")
    (outside / "deep" / "circle").symlink_to(inside)
    (outside / "up").symlink_to(tmp_path)
    (inside / "nothing.mp4").symlink_to(tmp_path / "gone.mp4")
    found = find_sources(inside)
    assert Counter(source.file.rpartition("/")[2] for source in found.sources) == {"v.mp4": 2}
    assert found.others["links to nothing"] == 1
    assert found.others["linked folders that are read under another name"] == 2


def test_names_that_are_not_utf8_stay_apart(tmp_path):
    for name in (b"\xe9.mp4", b"\xe8.mp4"):
        (tmp_path / name.decode("utf-8", "surrogateescape")).write_bytes(b"")
    found = find_sources(tmp_path)
    assert len({source.digest for source in found.sources}) == 2
    assert json.loads(found.sources[0].line())["path"] == found.sources[0].path
