"""The order of a run is one sequence, whoever asks for it and however often it was broken off."""

import logging
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from cascade.grid import Grid
from data.decode.decoder import Decoder
from data.index.index_file import read_about, write_index
from data.index.sidecar import ensure_index
from data.shards.caption import captions_path, write_captions
from data.train.loader import Prepared
from tests.data.odd_files import MATRICES, video, with_matrix
from tests.data.sharded import indexed, module


@pytest.mark.parametrize("world", [2, 4])
def test_ranks_are_disjoint_and_cover_what_one_process_sees(shards, world):
    data = module(shards)
    for name, count in (("train_loader", {"first": 3, "count": 6}), ("val_loader", {})):
        one = list(getattr(data, name)(**count))
        ranks = [getattr(data, name)(**count, rank=r, world=world) for r in range(world)]
        if name == "train_loader":
            for alone, *parts in zip(one, *ranks, strict=True):
                assert alone["key"] == [k for p in parts for k in p["key"]]
                assert torch.equal(alone["video"], torch.cat([p["video"] for p in parts]))
        else:
            assert {k for b in one for k in b["key"]} == {
                k for r in ranks for b in r for k in b["key"]
            }
            assert len({len(r) for r in ranks}) == 1


def test_one_held_out_sample_on_eight_ranks(shards, caplog):
    data = module(shards, val_samples=1, global_batch=8)
    seen = [b["key"] for r in range(8) for b in data.val_loader(rank=r, world=8)]
    assert len(seen) == 8
    assert len({k for batch in seen for k in batch}) == 1
    assert "1 held-out samples on 8 ranks" in caplog.text


def test_validation_is_held_out_and_fixed(shards):
    data = module(shards, val_share=0.3)
    held = [k for b in data.val_loader() for k in b["key"]]
    trained = {k for b in data.train_loader(first=0, count=20) for k in b["key"]}
    assert held
    assert not trained & set(held)
    assert len(trained) + len(held) == 20
    assert held == [k for b in module(shards, val_share=0.3, seed=9).val_loader() for k in b["key"]]


def test_own_validation_shards(shards):
    data = module(shards / "00000.tar", val=shards / "00001.tar")
    assert {k for b in data.val_loader() for k in b["key"]} == {f"clip_{i}" for i in range(12, 20)}
    assert len({k for b in data.train_loader(first=0, count=3) for k in b["key"]}) == 12


def test_cache_changes_nothing(shards):
    options = {"crop": (2, 8, 8)}
    plain = module(shards, cache_bytes=0, **options).train_loader(first=0, count=3)
    cached = module(shards, **options).train_loader(first=0, count=3)
    for _ in range(2):
        for a, b in zip(plain, cached, strict=True):
            assert torch.equal(a["video"], b["video"])
            assert (a["key"], a["caption"], a["state"]) == (b["key"], b["caption"], b["state"])


def test_decord_reads_what_an_index_of_its_depth_has_verified(
    write_shard, make_clips, tmp_path, monkeypatch
):
    pytest.importorskip("decord")
    samples = make_clips(12, frames=16)
    samples[0]["mp4"] = with_matrix(video(), *MATRICES["mirrored_left_right"])
    shard = write_shard(tmp_path / "0.tar", samples)
    options = {"allow_upscale": True, "min_rate": 0.0, "val_share": 0.0, "cache_bytes": 0}
    asked = []
    opened = Decoder.open

    def counted(self, data, *, decord=False):
        asked.append(decord)
        return opened(self, data, decord=decord)

    monkeypatch.setattr(Decoder, "open", counted)
    strict, quick = module(shard, **options), module(shard, decord=True, **options)
    pairs = [one.train_loader(first=0, count=3) for one in (strict, quick)]
    for one, other in zip(*pairs, strict=True):
        assert one["key"] == other["key"]
        assert (one["video"].int() - other["video"].int()).abs().float().mean() <= 2
    assert (asked.count(True), asked.count(False)) == (11, 12 + 1)
    rows, about = indexed(shard, "full")
    assert about["depth"] == "decord"
    assert sum(row["decord"] for row in rows) == 11


def test_only_what_a_stage_computes_with_goes_to_the_device(shards, monkeypatch):
    data = module(shards)
    (batch,) = data.train_loader(first=0, count=1)
    moved = data.transfer_batch_to_device(dict(batch), torch.device("meta"), 0)
    on_device = {name for name, value in moved.items() if getattr(value, "is_meta", False)}
    assert on_device == {"video", "fps", "zoom"}
    assert moved["state"] is batch["state"]
    assert torch.equal(moved["position"], batch["position"])
    pinned = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: pinned.append(self) or self)
    text = [torch.zeros(2, 4, dtype=torch.float16), None]
    Prepared(dict(batch) | {"text": text}, []).pin_memory()
    assert len(pinned) == 4
    assert all(any(one is p for p in pinned) for one in (batch["video"], batch["fps"], text[0]))


def test_stored_embeddings_are_fetched_by_the_loader(shards):
    def fetch(caption):
        return np.full((len(caption), 4), 0.5, np.float16)

    batch = next(iter(module(shards, fetch=fetch).train_loader(first=0, count=1)))
    assert [len(one) for one in batch["text"]] == [len(c) for c in batch["caption"]]
    assert batch["text"][0].dtype == torch.float16


def test_rates_and_zooms_reach_the_batch(shards):
    options = {"rates": [[1, 1], [0.5, 1]], "zooms": [[1, 1], [2, 1]], "cache_bytes": 0}
    data = module(shards, **options)
    batches = list(data.train_loader(first=0, count=6))
    assert {float(f) for b in batches for f in b["fps"]} == {4.0, 8.0}
    assert {float(z) for b in batches for z in b["zoom"]} == {1.0, 2.0}
    assert {b["video"].shape[1:] for b in batches} == {(3, 4, 16, 16)}


def test_packed_batches_are_the_same_for_any_world(shards):
    options = {"batching": "packing", "global_batch": 8, "multiple": (2, 4, 4), "cache_bytes": 0}
    one = list(module(shards, **options).train_loader(first=0, count=2))
    ranks = [
        module(shards, **options).train_loader(first=0, count=2, rank=r, world=2) for r in (0, 1)
    ]
    for alone, *parts in zip(one, *ranks, strict=True):
        assert alone["weight"] == 1.0
        assert [k for p in parts for k in p["key"]] == alone["key"]
        assert all(
            torch.equal(a, b)
            for a, b in zip(alone["videos"], [v for p in parts for v in p["videos"]], strict=True)
        )


def test_sets_by_weight(shards):
    sets = {
        "a": {"shards": shards / "00000.tar", "weight": 1.0},
        "b": {"shards": shards / "00001.tar", "weight": 3.0},
    }
    data = module(sets, val_share=0.0)
    data.setup()
    border = data.chosen.index.starts[1]
    rows = [d.row for n in range(400) for d in data.plan.share(n, part=0, parts=1)]
    assert np.mean([row >= border for row in rows]) == pytest.approx(0.75, abs=0.02)
    with pytest.raises(ValueError, match="all sets or none must have a weight"):
        module({"a": sets["a"], "b": {"shards": "x"}})
    with pytest.raises(ValueError, match="00000.tar is in two of the sets a, b"):
        module({"a": sets["a"], "b": sets["a"]}).setup()


def test_the_survey_counts_everything_once(shards):
    survey = module(shards, batching="buckets").survey()
    assert survey.samples == survey.train + survey.held == 20
    assert sum(bucket.clips for bucket in survey.buckets) == survey.train
    assert sum(bucket.share for bucket in survey.buckets) == pytest.approx(1)
    assert 0 <= survey.unused < 1
    assert survey.cache_bytes["index"] > 0


def test_fewer_shards_than_workers_and_ranks(write_shard, make_clips, tmp_path):
    path = write_shard(tmp_path / "a.tar", make_clips(3))
    data = module(path, global_batch=8, num_workers=4, val_share=0.0)
    keys = [
        [b["key"] for b in data.train_loader(first=0, count=2, rank=r, world=8)] for r in range(8)
    ]
    assert {len(batches) for batches in keys} == {2}
    assert {k for batches in keys for b in batches for k in b} == {"clip_0", "clip_1", "clip_2"}
    data.teardown()


def test_images_and_videos_never_share_a_batch(write_shard, make_clips, make_jpeg, tmp_path):
    images = [
        {"__key__": f"image_{i}", "jpg": make_jpeg(), "txt": f"picture {i}"} for i in range(5)
    ]
    path = write_shard(tmp_path / "a.tar", make_clips(5) + images)
    data = module(path, image_share=0.5, global_batch=2, val_share=0.0)
    frames = [b["video"].shape[2] for b in data.train_loader(first=0, count=10)]
    assert set(frames) == {1, 4}
    kinds = [data.plan.bucket(n).kind for n in range(1280)]
    assert kinds.count("image") == 640
    without = module(path, global_batch=2, val_share=0.0)
    assert {b["video"].shape[2] for b in without.train_loader(first=0, count=10)} == {4}
    assert (without.chosen.unasked, without.chosen.dropped) == (5, {})


def test_shards_are_made_when_they_are_missing(write_shard, make_clips, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    made: list[Path] = []

    def make(folder: Path) -> None:
        made.append(folder)
        write_shard(folder / "0.tar", make_clips(1))

    data = module(tmp_path / "world", make=make, val_share=0.5)
    data.prepare_data()
    data.setup()
    assert made == [tmp_path / "world"]
    assert "validation uses training samples" in caplog.text
    assert [b["key"] for b in data.val_loader()] == [["clip_0"]]
    assert next(iter(data.train_loader(first=0, count=1)))["key"] == ["clip_0"] * 4


@pytest.mark.media
def test_real_clips_of_every_size_make_one_batch(media, write_shard, tmp_path):
    files = [p for p in sorted((media / "clips").iterdir()) if p.stat().st_size < 600_000]
    samples = [
        {
            "__key__": path.stem,
            path.suffix[1:]: path.read_bytes(),
            "txt": path.with_suffix(".txt").read_text(),
        }
        for path in files
        if path.suffix != ".txt"
    ]
    data = module(write_shard(tmp_path / "clips.tar", samples), global_batch=8, cache_bytes=0)
    batch = next(iter(data.train_loader(first=0, count=1)))
    assert batch["video"].shape == (8, 3, 4, 16, 16)
    assert all(batch["caption"])
    assert (data.failures, data.chosen.dropped) == ([], {})


@pytest.mark.media
def test_sprites_train_by_their_path_alone(media, tmp_path):
    data = module(media / "sprites" / "00000.tar", cache_dir=tmp_path, cache_bytes=0)
    batch = next(iter(data.train_loader(first=0, count=1)))
    assert all(state["key"] == key for state, key in zip(batch["state"], batch["key"], strict=True))
    assert len(data.held) + len(data.pool.rows) == 200


def test_what_the_indices_say_is_part_of_the_fingerprint(write_shard, make_clips, tmp_path):
    shards = write_shard(tmp_path / "a.tar", make_clips(8))
    first, second = module(shards), module(shards)
    first.setup()
    path = first.chosen.index.paths[0]
    table = pq.read_table(path)
    unfit = pa.array(["", *["does not decode"] * 2, *[""] * (len(table) - 3)])
    columns = {n: table[n] for n in table.column_names} | {"reason": unfit.dictionary_encode()}
    write_index(path, columns, read_about(path))
    second.setup()
    assert second.fingerprint != first.fingerprint
    assert len(second.pool.rows) < len(first.pool.rows)


def test_a_stage_of_one_frame_draws_images_and_videos_alike(
    write_shard, make_clips, make_jpeg, tmp_path
):
    images = [{"__key__": f"image_{i}", "jpg": make_jpeg(), "txt": "a picture"} for i in range(9)]
    data = module(
        write_shard(tmp_path / "a.tar", make_clips(3) + images),
        grid=Grid(frames=1, height=16, width=16, fps=8),
        batching="buckets",
        val_share=0.0,
    )
    data.setup()
    rows = [d.row for n in range(60) for d in data.plan.share(n, part=0, parts=1)]
    assert np.mean(data.chosen.index.image[rows]) == pytest.approx(0.75, abs=0.03)


def test_captions_made_for_a_shard_are_drawn_and_count_as_captions(
    write_shard, make_clips, tmp_path
):
    mute = [{k: v for k, v in clip.items() if k != "txt"} for clip in make_clips(6)]
    path = write_shard(tmp_path / "a.tar", mute)
    index = ensure_index([str(path)])[0]
    made = {f"clip_{i}": {"long": f"a long one of {i}"} for i in range(5)} | {"clip_5": {}}
    write_captions(captions_path(index), made, note={})
    data = module(path, val_share=0.0)
    (batch,) = data.train_loader(first=0, count=1)
    assert data.chosen.dropped == {"no caption": 1}
    assert batch["caption"] == [f"a long one of {key[-1]}" for key in batch["key"]]
    again = module(path, val_share=0.0, cache_bytes=0)
    again.setup()
    write_captions(captions_path(index), made | {"clip_5": {"long": "late"}}, note={})
    with pytest.raises(ValueError, match="has changed since the run began"):
        list(again.train_loader(first=0, count=1))


@pytest.mark.parametrize("workers", [1, 3])
def test_the_number_of_workers_changes_nothing(shards, workers):
    alone = [b["key"] for b in module(shards, cache_bytes=0).train_loader(first=2, count=6)]
    data = module(shards, cache_bytes=0, num_workers=workers)
    assert [b["key"] for b in data.train_loader(first=2, count=6)] == alone
    data.teardown()
