"""A set of which one sample in twenty is odd or hostile goes all the way, and each is named.

`CASCADE_HOSTILE=1000 pytest -m slow tests/data/test_hostile.py` makes a set of 1,000.
"""

import json
import logging
import os
from collections import Counter

import pyarrow.parquet as pq
import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from cascade.entry import CONF
from cascade.plan import plan
from cascade.shrink import resolved
from cascade.train import train
from data.index.sidecar import ensure_index
from data.ingest.recipe import Recipe
from data.ingest.run import Settings, make_shards
from data.ingest.work import LocalProcesses
from data.shards.store import find_shards
from tests.data.hostile import (
    CAPTION,
    EITHER,
    HOSTILE,
    SOUND,
    captioned,
    hostile_files,
    kind_of,
    video,
)
from tests.data.sharded import tar

KINDS = len(SOUND) + len(HOSTILE) + len(EITHER)
SECTIONS = ("shots", "windows", "encoding", "measures", "filters", "packing")
OVERRIDES = ("measures.text_side=null", "filters.text=null", "filters.min_short_side=16")
OVERRIDES += ("encoding.preset=ultrafast", "filters.duplicate=null", "filters.motion=null")
OVERRIDES += ("filters.still=null", "packing.prefix=p", "shots.threshold=null")
COUNTS = [
    pytest.param(12, KINDS, id="small"),
    pytest.param(
        int(os.environ.get("CASCADE_HOSTILE", "1000")) * 19 // 20,
        int(os.environ.get("CASCADE_HOSTILE", "1000")) // 20,
        id="large",
        marks=[
            pytest.mark.slow,
            pytest.mark.skipif("CASCADE_HOSTILE" not in os.environ, reason="CASCADE_HOSTILE=1000"),
        ],
    ),
]


def samples(sound, hostile):
    """The files of all samples by name; hostile ones between sound ones."""
    plain = {
        f"plain_{n}": captioned("mp4", video(n), b"%s %d" % (CAPTION, n)) for n in range(sound)
    }
    odd = hostile_files(hostile)
    names = sorted([*plain, *odd], key=lambda name: name.rpartition("_")[2].zfill(6) + name)
    return {name: (plain | odd)[name] for name in names}


def check(reasons):
    """Each sample has the outcome of its kind; `reasons` are '' for the kept ones."""
    wrong = {
        name: reason or "kept"
        for name, reason in reasons.items()
        if (kind := kind_of(name)) not in EITHER and bool(reason) == (kind in SOUND | {"plain": 0})
    }
    assert not wrong
    assert all(len(reason) > 4 for reason in reasons.values() if reason)


def go_on(shards, tmp_path, caplog):
    """Plan and train on the shards; every sample that fails on the way is named."""
    overrides = ["stage=demo/base", "data=shards", f"data.shards={shards}", "logger=csv"]
    overrides += [f"logger.csv.save_dir={tmp_path}/run", f"paths.runs={tmp_path}/runs"]
    overrides += ["debug=smoke", "shrink.steps=4", "shrink.batch=4"]
    overrides += ["data.selection.max_dropped=1.0", "trainer.val_check_interval=4"]
    overrides += ["data.validation.share=0.1", "callbacks.samples.every_n_steps=4"]
    with initialize_config_dir(version_base="1.3", config_dir=CONF):
        planned = compose("plan", overrides=[*overrides, "plan.measure=false", "plan.device=cpu"])
        trained = compose("train", overrides=overrides)
    run = tmp_path / "run"
    record = plan(resolved(planned), stage="demo/base", run=run)
    assert not record.errors
    assert train(trained, run) > 0
    assert (run / "bundle").is_dir()
    lines = [r.message for r in caplog.records if "failed (" in r.message]
    quarantine = run / "quarantine.jsonl"
    failed = quarantine.read_text().split("\n") if quarantine.exists() else []
    failed = [json.loads(line) for line in failed if line]
    assert all(kind_of(one["key"]) in EITHER and one["reason"] for one in failed), lines


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("sound", "hostile"), COUNTS)
def test_a_folder_with_hostile_files_becomes_shards_that_train(sound, hostile, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    folder, to = tmp_path / "from", tmp_path / "to"
    folder.mkdir()
    for name, files in samples(sound, hostile).items():
        for suffix, data in files.items():
            (folder / f"{name}.{suffix}").write_bytes(data)
    with initialize_config_dir(version_base="1.3", config_dir=CONF):
        cfg = compose("shards", overrides=["from=a", *OVERRIDES])
    recipe = Recipe(**{name: instantiate(cfg[name]) for name in SECTIONS})
    settings = Settings(deadline_s=60, memory_gb=4, ahead=100, thumbnails=4)
    make_shards(str(folder), to, recipe, LocalProcesses(workers=2), settings)
    rows = [
        json.loads(line) for line in (to / "report/clips.jsonl").read_text().split("\n") if line
    ]
    check({row["source"].rpartition(".")[0]: row["reason"] for row in rows})
    dropped = Counter(row["reason"] for row in rows if row["reason"])
    told = next(r.message for r in caplog.records if "clips (" in r.message)
    assert all(f"{count} {reason}" in told for reason, count in dropped.items())
    go_on(to, tmp_path, caplog)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("sound", "hostile"), COUNTS)
def test_shards_with_hostile_samples_are_indexed_and_train(sound, hostile, tmp_path, caplog):
    members = [
        (f"{name}.{suffix}", data)
        for name, files in samples(sound, hostile).items()
        for suffix, data in files.items()
    ]
    members += [
        ("text-alone_0.txt", b"no video"),
        ("dotted_0.3.mp4", video(1)),
        ("../outside_0.mp4", video(2)),
        ("plain_0.mp4", video(3)),
        ("plain_0.txt", b"another"),
        ("notes_0.pdf", b"%PDF"),
    ]
    (tmp_path / "set").mkdir()
    tar(tmp_path / "set" / "00000.tar", members)
    shards = find_shards(tmp_path / "set")
    (index,) = ensure_index(shards, depth="full", workers=2)
    rows = pq.read_table(index).to_pylist()
    reasons = {row["key"]: row["reason"] for row in reversed(rows)}
    for key in ("text-alone_0", "dotted_0.3", "../outside_0"):
        assert reasons.pop(key)
    check(reasons)
    assert [row["reason"] for row in rows if row["key"] == "plain_0"] == ["", "duplicate key"]
    go_on(tmp_path / "set", tmp_path, caplog)
