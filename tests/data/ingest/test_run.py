"""The command, whole: killed, refused, reported; and what other readers see in its shards."""

import json
import os
import random
import signal
import sys
import time
from functools import partial
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import webdataset

from data.index.sidecar import ensure_index
from data.ingest.output_folder import Folder
from data.ingest.run import make_shards
from data.ingest.sources import find_sources
from data.ingest.work import Bench, IngestPlan, LocalProcesses, work_through
from tests.data.ingest.conftest import SETTINGS


@pytest.fixture(scope="module")
def made(videos, make_recipe, tmp_path_factory):
    """An unbroken run in shards of five."""
    to = tmp_path_factory.mktemp("made") / "shards"
    make_shards(
        str(videos), to, make_recipe("packing.samples=5"), LocalProcesses(workers=2), SETTINGS
    )
    return to


def files(to: Path) -> dict[str, bytes]:
    """All that must be equal: everything but the indices, which hold their shard's time stamp."""
    return {
        str(path.relative_to(to)): path.read_bytes()
        for path in sorted(to.rglob("*"))
        if path.is_file() and path.suffix != ".parquet"
    }


def test_webdataset_reads_what_was_written(made):
    shards = sorted(map(str, made.glob("*.tar")))
    assert [Path(shard).name for shard in shards] == [f"p-{i:06d}.tar" for i in range(4)]
    samples = list(webdataset.WebDataset(shards, shardshuffle=False))
    assert len({sample["__key__"] for sample in samples}) == len(samples) == 16
    sources = [json.loads(sample["json"])["clip"]["source"] for sample in samples]
    assert sources == sorted(sources)
    first = next(s for s in samples if b"video.2.mp4" in s["json"])
    clip = json.loads(first["json"])["clip"]
    assert first["txt"] == b"caption 2"
    assert (clip["window"], clip["start"], clip["width"], clip["fps"]) == (0, 0, 128, 12)
    assert clip["end"] == pytest.approx(26 / 12, abs=1e-3)
    assert clip["scores"].keys() == {"black", "still", "motion"}


def test_every_clip_is_vouched_for_by_its_index(made):
    shards = sorted(map(str, made.glob("*.tar")))
    for path in ensure_index(shards, depth="full"):
        table = pq.read_table(path).to_pydict()
        assert set(table["reason"]) == {""}


def test_the_report_counts_everything_once(made):
    report = json.loads((made / "report/report.json").read_text())
    assert report["sources"]["read"] == 11
    assert report["sources"]["dropped"] == {
        "unreadable": {"sources": 1, "seconds": 0, "of_unknown_length": 1}
    }
    assert report["clips"]["kept"] == 16
    assert {k: v["clips"] for k, v in report["clips"]["dropped"].items()} == {
        "duplicate": 2,
        "black": 1,
    }
    assert report["not_read"] == {".md": 1}
    assert report["clips"]["uncaptioned"] == 2  # of again.mp4
    assert report["clips"]["sharing_caption"] == 14  # two shots of each of seven videos
    rows = [json.loads(line) for line in (made / "report/clips.jsonl").read_text().splitlines()]
    assert len(rows) == 16 + 3 + 1
    again = [row for row in rows if row["reason"] == "duplicate"]
    assert {row["source"] for row in again} == {"some/video.3.mp4"}  # again.mp4 comes first
    keys = {row["key"] for row in rows if row.get("key")}
    assert all(row["duplicate_of"] in keys for row in again)
    page = (made / "report/index.html").read_text()
    for word in ("duplicate", "black", "unreadable", "not_a.mp4", "16"):
        assert word in page
    assert len(list((made / "report/index.files").glob("*.jpg"))) >= 3


def test_nothing_is_left_behind_and_the_same_command_does_nothing(made, videos, make_recipe):
    assert not (made / ".work").exists()
    before = {path: path.stat().st_mtime_ns for path in made.rglob("*") if path.is_file()}
    make_shards(
        str(videos), made, make_recipe("packing.samples=5"), LocalProcesses(workers=2), SETTINGS
    )
    assert before == {path: path.stat().st_mtime_ns for path in made.rglob("*") if path.is_file()}


def test_one_worker_makes_the_same_bytes(made, videos, make_recipe, tmp_path):
    to = tmp_path / "one"
    make_shards(
        str(videos), to, make_recipe("packing.samples=5"), LocalProcesses(workers=1), SETTINGS
    )
    assert files(to) == files(made)


def kill_at_random(start, to: Path, kills: int, seed: int, most_s: float) -> int:
    """SIGKILL the command and its children at random moments, then let it finish; the hits."""
    moments, hit = random.Random(seed), 0
    for _ in range(kills):
        process = start()
        try:
            process.wait(moments.uniform(0.5, most_s))
        except Exception:
            hit += 1
        os.killpg(process.pid, signal.SIGKILL) if process.poll() is None else None
        process.communicate()
    process = start()
    said, _ = process.communicate(timeout=3000)
    assert process.returncode == 0, said
    return hit


@pytest.mark.slow
def test_killed_three_times_it_goes_on_to_the_same_bytes(made, videos, ingest, tmp_path):
    to = tmp_path / "killed"
    start = partial(ingest, videos, to, "packing.samples=5", "run.thumbnails=4")
    begun = time.monotonic()
    process = start()
    while not list(to.glob(".work/records/*/*.json")) and process.poll() is None:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)  # the parent alone: its children must not live on
    process.communicate()
    assert time.monotonic() - begun < 60
    assert not (to / "report").exists()
    kill_at_random(start, to, 2, seed=0, most_s=8)
    assert files(to) == files(made)


@pytest.mark.skipif(
    "CASCADE_KILLS" not in os.environ, reason="left out: takes minutes; CASCADE_KILLS=20 runs it"
)
@pytest.mark.slow
@pytest.mark.media
def test_killed_twenty_times_on_real_clips(media, ingest, tmp_path):
    options = ("packing.samples=7", "encoding.short_side=160")
    process = ingest(media / "clips", tmp_path / "whole", *options)
    begun = time.monotonic()
    said, _ = process.communicate()
    lasted = time.monotonic() - begun
    assert process.returncode == 0, said
    start = partial(ingest, media / "clips", tmp_path / "killed", *options)
    hit = kill_at_random(start, tmp_path / "killed", 20, seed=1, most_s=lasted / 3)
    assert hit >= 5
    assert files(tmp_path / "killed") == files(tmp_path / "whole")


def test_another_recipe_or_other_sources_are_refused_with_the_difference(
    made, videos, make_recipe, make_scene, make_video, tmp_path
):
    def again(place, *options):
        recipe = make_recipe("packing.samples=5", *options)
        return make_shards(str(place), made, recipe, LocalProcesses(workers=1), SETTINGS)

    with pytest.raises(ValueError, match=r"filters\.black was 0\.5, now 0\.25.*another folder"):
        again(videos, "filters.black=0.25")
    for file in videos.rglob("*.*"):
        copy = tmp_path / file.relative_to(videos)
        copy.parent.mkdir(exist_ok=True)
        copy.write_bytes(file.read_bytes())
        os.utime(copy, ns=(0, file.stat().st_mtime_ns))
    again(tmp_path)  # moved as a whole, it is the same
    (tmp_path / "some/video.4.txt").write_text("another caption")
    with pytest.raises(ValueError, match=r"1 sources changed: some/video\.4\.mp4 \(caption\)"):
        again(tmp_path)
    (tmp_path / "some/video.4.mp4").unlink()
    make_video(tmp_path / "new.mp4", make_scene(0, 20))
    with pytest.raises(
        ValueError, match=r"1 sources added: new\.mp4; 1 sources removed: some/video\.4"
    ):
        again(tmp_path)


def test_two_runs_into_one_folder_are_refused(videos, make_recipe, tmp_path):
    with Folder(tmp_path).locked(), pytest.raises(ValueError, match="another run is writing"):
        make_shards(str(videos), tmp_path, make_recipe(), LocalProcesses(workers=1), SETTINGS)


def test_shards_that_exist_are_only_indexed(shards, make_recipe):
    found = make_shards(str(shards), None, make_recipe(), LocalProcesses(workers=1), SETTINGS)
    assert found == sorted(map(str, shards.glob("*.tar")))
    assert all(path.is_file() for path in ensure_index(found, depth="full"))


def test_a_full_disk_stops_the_run_and_drops_nothing(videos, make_recipe, tmp_path, monkeypatch):
    (tmp_path / "full.py").write_text(
        "def make_part(file, part, recipe, *, thumbnails):\n"
        "    raise OSError(28, 'No space left on device')\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    import full

    monkeypatch.setattr("data.ingest.work.make_part", full.make_part)
    with pytest.raises(OSError, match="No space left"):
        make_shards(
            str(videos), tmp_path / "to", make_recipe(), LocalProcesses(workers=2), SETTINGS
        )
    assert Folder(tmp_path / "to").recorded() == set()


def test_a_library_that_does_not_import_is_told_with_the_way_out(
    tmp_path, monkeypatch, videos, make_recipe
):
    (tmp_path / "cv2.py").write_text("raise ImportError('libGL.so.1: cannot open shared object')")
    monkeypatch.syspath_prepend(str(tmp_path))
    folder = Folder(tmp_path / "to")
    bench = Bench(deadline_s=60, memory_bytes=None, thumbnails=0.0)
    found = find_sources(videos).sources
    job = IngestPlan(folder=folder, sources=found, recipe=make_recipe(), bench=bench)
    with pytest.raises(ValueError, match="opencv-python-headless.*apt-get install libgl1"):
        list(work_through(job, [0], 1))
    assert "cv2" not in sys.modules or sys.modules["cv2"].__file__ != str(tmp_path / "cv2.py")
