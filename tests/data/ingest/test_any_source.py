"""Whatever the sources are, each is kept or dropped with its reason, and the run ends well."""

import json
import logging
import tarfile

import numpy as np
import pyarrow.parquet as pq
import pytest
import webdataset

from data.index.sidecar import ensure_index
from data.ingest.run import Settings, make_shards
from data.ingest.work import LocalProcesses
from tests.data.ingest.conftest import SETTINGS


def test_equal_names_in_two_batches_give_other_keys_and_one_name_the_same(
    make_scene, make_video, make_recipe, tmp_path, caplog
):
    caplog.set_level(logging.INFO)
    keys = {}
    for name, seed in (("one", 1), ("two", 2), ("copy", 1)):
        folder = tmp_path / name / "clips"
        make_video(folder / "0001.mp4", np.concatenate([make_scene(seed, 26), make_scene(9, 26)]))
        (folder / "0001.txt").write_text("a caption")
        (folder / "notes.md").write_text("")
        recipe, to = make_recipe("filters.duplicate=null"), tmp_path / name / "to"
        (shard,) = make_shards(str(folder), to, recipe, LocalProcesses(workers=1), SETTINGS)
        keys[name] = {s["__key__"] for s in webdataset.WebDataset([shard], shardshuffle=False)}
    assert len(keys["one"]) == 2
    assert not keys["one"] & keys["two"]
    assert keys["one"] == keys["copy"]
    said = [r.message for r in caplog.records]
    assert any(m.endswith("1 sources, 1 of them with a caption; not read: 1 .md") for m in said)
    assert any("2 of 2 clips share their source's caption with its other clips" in m for m in said)


def test_a_lists_own_columns_and_its_images_come_through(tmp_path, videos, make_jpeg, make_recipe):
    (tmp_path / "a.jpeg").write_bytes(make_jpeg())
    rows = [
        {"path": str(videos / "some/video.1.mp4"), "caption": "süß", "rating": 0.5, "long": "more"},
        {"path": "a.jpeg", "caption": None, "rating": None, "long": ""},
    ]
    (tmp_path / "list.jsonl").write_text("\n".join(map(json.dumps, rows)))
    shards = make_shards(
        str(tmp_path / "list.jsonl"),
        tmp_path / "to",
        make_recipe(),
        LocalProcesses(workers=1),
        SETTINGS,
    )
    first, second, image = webdataset.WebDataset(shards, shardshuffle=False)
    for i, sample in enumerate((first, second)):
        state = json.loads(sample["json"])
        assert (state["rating"], state["long"], state["clip"]["window"]) == (0.5, "more", i)
        assert sample["txt"].decode() == "süß"
    assert image["jpg"] == make_jpeg()
    assert "txt" not in image
    table = pq.read_table(ensure_index(shards, depth="full")[0]).to_pydict()
    assert table["kind"] == ["video", "video", "image"]
    assert table["captioned"] == [True, True, False]


@pytest.mark.slow
@pytest.mark.media
def test_every_hazard_is_kept_or_dropped_with_a_reason(media, make_recipe, tmp_path):
    recipe = make_recipe("encoding.short_side=128")
    shards = make_shards(
        str(media / "hazards"), tmp_path, recipe, LocalProcesses(workers=2), SETTINGS
    )
    rows = [json.loads(row) for row in (tmp_path / "report/clips.jsonl").read_text().splitlines()]
    assert {row["source"] for row in rows} == set(
        json.loads((media / "hazards/hazards.json").read_text())
    )
    assert {row["source"]: row["reason"] for row in rows if "detail" in row} == dict.fromkeys(
        (
            *("audio_only.mp4", "claims_12336x12336.webm", "corrupted.mp4"),
            *("header_only.mp4", "one_pixel.mp4"),
        ),
        "unreadable",
    )
    table = pq.read_table(ensure_index(shards, depth="full")[0]).to_pydict()
    assert set(table["reason"]) == {""}


def test_shards_do_not_go_among_their_sources(videos, make_recipe):
    with pytest.raises(ValueError, match="is inside the source folder"):
        make_shards(str(videos), videos / "to", make_recipe(), LocalProcesses(workers=1), SETTINGS)


def test_where_nothing_is_kept_it_says_so_and_reports(tmp_path, videos, make_recipe):
    to = tmp_path / "to"
    for _ in range(2):
        with pytest.raises(ValueError, match=r"no clip of 11 sources was kept; .*html"):
            make_shards(
                str(videos), to, make_recipe("windows.min_s=9"), LocalProcesses(workers=2), SETTINGS
            )
    report = json.loads((to / "report/report.json").read_text())
    assert report["clips"]["dropped"]["too short"]["clips"] == 19


HOSTILE = """
import os, signal, time
from data.ingest.make import make_part as real

def make_part(file, part, recipe, *, thumbnails):
    if "video.2" in file:
        time.sleep(100)
    if "video.4" in file:
        os.kill(os.getpid(), signal.SIGSEGV)
    if "video.5" in file:
        open(part, "wb").write(b"half")
        raise KeyError("surprise")
    if "video.6" in file:
        bytearray(2**34)
    return real(file, part, recipe, thumbnails=thumbnails)
"""


def test_a_source_that_hangs_crashes_or_fails_is_dropped_and_the_run_goes_on(
    videos, make_recipe, tmp_path, monkeypatch
):
    (tmp_path / "hostile.py").write_text(HOSTILE)
    monkeypatch.syspath_prepend(str(tmp_path))
    import hostile

    monkeypatch.setattr("data.ingest.work.make_part", hostile.make_part)
    settings = Settings(deadline_s=4, memory_gb=2, ahead=100, thumbnails=4)
    make_shards(str(videos), tmp_path / "to", make_recipe(), LocalProcesses(workers=2), settings)
    lines = (tmp_path / "to/report/clips.jsonl").read_text().splitlines()
    told = {
        row["source"]: (row["reason"], row["detail"])
        for row in map(json.loads, lines)
        if "detail" in row
    }
    assert told["some/video.2.mp4"] == ("given up", "exceeded the deadline of 4 s")
    assert told["some/video.4.mp4"] == ("given up", "crashed (SIGSEGV)")
    assert told["some/video.5.mp4"] == ("failed", "KeyError: 'surprise'")
    assert told["some/video.6.mp4"][0] == "given up"
    assert "memory" in told["some/video.6.mp4"][1]
    with tarfile.open(tmp_path / "to/p-000000.tar") as tar:
        assert sum(name.endswith(".mp4") for name in tar.getnames()) == 8
