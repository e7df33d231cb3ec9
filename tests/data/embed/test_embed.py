"""Laws of `python -m data.embed`: size foretold, killed and gone on, each text once."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from cascade.bundle import load_stage, read_stage
from cascade.curves import read_curves
from cascade.grid import Grid
from cascade.text.embeddings import SUFFIX, EmbeddingFile, Embeddings
from cascade.text.t5 import T5Text
from data.embed.__main__ import check_disk
from data.embed.embedder import Embedder, embeddings_path
from data.embed.partial import part_path
from data.index.sidecar import ensure_index
from data.shards.caption import Captions, captions_path, write_captions
from data.shards.store import find_shards
from tests import commands
from tests.commands import Command

ALL = {"txt": 1.0, "long": 1.0, "short": 1.0}


@pytest.fixture
def folder(tmp_path, write_shard, make_clips) -> Path:
    """Two shards; the first has new captions, one caption is in both, one sample is unfit."""
    first, second = make_clips(12), make_clips(8, first=12)
    second[0]["txt"] = "caption 3"
    second[1]["txt"] = "a much longer caption " * 5
    second[2] |= {"mp4": b"no video", "txt": "of an unfit sample"}
    write_shard(tmp_path / "shards/00000.tar", first)
    write_shard(tmp_path / "shards/00001.tar", second)
    index, _ = ensure_index(find_shards(tmp_path / "shards"))
    made = {f"clip_{i}": {"long": f"a long caption {i}", "short": "short"} for i in range(5)}
    write_captions(captions_path(index), made, note={})
    return tmp_path / "shards"


def embedder(encoder: Path, **options) -> Embedder:
    defaults = {"captions": Captions(**ALL), "max_tokens": 64, "dtype": "float32"}
    return Embedder(encoder=str(encoder), **{**defaults, "batch_tokens": 128, **options})


def run_all(maker: Embedder, folder: Path) -> list[Path]:
    shards = find_shards(folder)
    indices = ensure_index(shards)
    found = maker.forecast(shards, indices)
    for shard, index in zip(shards, indices, strict=True):
        work = maker.work(shard, index)
        if work is not None:
            maker.make(work)
        maker.share(embeddings_path(index), found.shared)
    return [embeddings_path(index) for index in indices]


EXPECTED = {
    "",
    "short",
    *(f"caption {i}" for i in range(20) if i not in (12, 13, 14)),
    *(f"a long caption {i}" for i in range(5)),
    ("a much longer caption " * 5).strip(),
}


def test_every_caption_that_may_be_drawn_is_stored_as_the_encoder_gives_it(folder, tiny_t5):
    run_all(embedder(tiny_t5), folder)
    store = Embeddings.open(folder, max_tokens=64)
    text = T5Text(name=str(tiny_t5), width=16, max_tokens=64, dtype="float32")
    assert len(store) == len(EXPECTED) + 2  # the empty caption and "caption 3" are in both
    for caption in EXPECTED:
        wanted = text([caption]).tokens[0]
        assert len(wanted) <= 64
        torch.testing.assert_close(
            torch.from_numpy(store.get(caption)), wanted.half(), atol=2e-3, rtol=2e-3
        )
    assert "of an unfit sample" not in store


def test_the_forecast_is_the_size(folder, tiny_t5):
    maker, shards = embedder(tiny_t5), find_shards(folder)
    found = maker.forecast(shards, ensure_index(shards))
    assert set(maker.text._loaded) == {"tokenizer"}  # a disk too small is told at once
    assert found.cut == 1
    assert sum(found.left.values()) == found.bytes
    files = run_all(maker, folder)
    assert sum(path.stat().st_size for path in files) == found.bytes
    assert sum(int(EmbeddingFile(path).lengths.sum()) for path in files) == found.tokens
    again = embedder(tiny_t5).forecast(shards, ensure_index(shards))
    assert (again.bytes, again.tokens, again.left) == (found.bytes, found.tokens, {})


def test_each_text_is_encoded_once_and_new_captions_alone_are_added(folder, tiny_t5, monkeypatch):
    seen = []
    encode = T5Text.encode
    monkeypatch.setattr(
        T5Text, "encode", lambda self, ids: (seen.extend(map(tuple, ids)), encode(self, ids))[1]
    )
    run_all(embedder(tiny_t5), folder)
    assert len(seen) == len(set(seen)) == len(EXPECTED)
    index = ensure_index(find_shards(folder))[1]
    write_captions(captions_path(index), {"clip_15": {"long": "a new caption"}}, note={})
    seen.clear()
    run_all(embedder(tiny_t5), folder)
    assert len(seen) == 1
    assert "a new caption" in Embeddings.open(folder)
    seen.clear()
    run_all(embedder(tiny_t5), folder)
    assert seen == []


def test_what_was_written_before_a_stop_is_not_encoded_again(folder, tiny_t5, monkeypatch):
    whole = [path.read_bytes() for path in run_all(embedder(tiny_t5), folder)]
    for path in folder.glob(f"*{SUFFIX}"):
        path.unlink()
    count, encode = [0], T5Text.encode

    def stop(self, ids):
        count[0] += 1
        if count[0] == 4:
            raise KeyboardInterrupt
        return encode(self, ids)

    monkeypatch.setattr(T5Text, "encode", stop)
    with pytest.raises(KeyboardInterrupt):
        run_all(embedder(tiny_t5), folder)
    rest = [path.read_bytes() for path in run_all(embedder(tiny_t5), folder)]
    stopped, count[0] = count[0], 10
    assert rest == whole
    for path in folder.glob(f"*{SUFFIX}"):
        path.unlink()
    run_all(embedder(tiny_t5), folder)
    assert stopped - 1 == count[0] - 10  # the batch that was stopped came again, no other


def test_a_part_that_lost_its_bytes_is_begun_again(folder, tiny_t5, monkeypatch):
    index = ensure_index(find_shards(folder))[0]
    whole = run_all(embedder(tiny_t5), folder)[0].read_bytes()
    path = embeddings_path(index)
    path.unlink()
    monkeypatch.setattr(T5Text, "encode", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run_all(embedder(tiny_t5), folder)
    note = part_path(path).with_name(f"{part_path(path).name}.json")
    monkeypatch.undo()
    plan = embedder(tiny_t5).work(find_shards(folder)[0], index).layout
    note.write_text(json.dumps({"plan": "?", "done": len(plan.lengths), "rows": plan.rows}))
    part_path(path).unlink()
    run_all(embedder(tiny_t5), folder)
    assert path.read_bytes() == whole
    assert not note.exists()


def other(encoder: Path, folder: Path) -> Path:
    transformers = pytest.importorskip("transformers")
    shutil.copytree(encoder, folder)
    config = transformers.T5Config.from_pretrained(folder)
    transformers.T5EncoderModel(config).save_pretrained(folder)
    return folder


def test_another_encoder_is_refused_with_both_and_replaces_when_asked(folder, tiny_t5, tmp_path):
    path = run_all(embedder(tiny_t5), folder)[0]
    mine, new = EmbeddingFile(path).made.fingerprint, other(tiny_t5, tmp_path / "other")
    theirs = embedder(new).made.fingerprint
    with pytest.raises(ValueError, match=rf"encoder {mine} .*this one is {theirs}.*replace=true"):
        run_all(embedder(new), folder)
    with pytest.raises(ValueError, match=rf"encoder {mine} \(t5\w*\), but {theirs} is needed"):
        T5Text(name=str(new), width=16, max_tokens=64, embeddings=str(folder)).prepare()
    run_all(embedder(new, replace=True), folder)
    assert {EmbeddingFile(p).made.fingerprint for p in folder.glob(f"*{SUFFIX}")} == {theirs}


def test_a_disk_that_is_too_small_is_refused_before_anything_is_encoded(tmp_path):
    with pytest.raises(ValueError, match=r"needs 1e\+09 GB but has .* GB left; free some"):
        check_disk({tmp_path: 10**18})
    check_disk({tmp_path: 1})


def test_what_does_not_fit_is_an_error_that_names_the_caption(folder, tiny_t5, monkeypatch):
    encode = T5Text.encode

    def large(self, ids):
        features = encode(self, ids)
        return features._replace(tokens=features.tokens * 1e6)

    monkeypatch.setattr(T5Text, "encode", large)
    with pytest.raises(ValueError, match=r"returns .* for '', which exceeds the maximum 65504"):
        run_all(embedder(tiny_t5, captions=Captions(short=1.0)), folder)


def command(folder: Path, encoder: Path, *more: str) -> list[str]:
    return [
        *("data.embed", f"shards={folder}", f"encoder={encoder}"),
        *("max_tokens=64", "dtype=float32", "device=cpu", *more),
    ]


@pytest.mark.slow
def test_killed_at_any_batch_it_goes_on_to_the_same_bytes(folder, tiny_t5):
    once = command(folder, tiny_t5, "batch_tokens=16")
    process = Command(*once)
    note = folder / f".00000{SUFFIX}.part.json"
    deadline = time.monotonic() + 60
    while not note.exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert note.exists()
    assert list(folder.glob(f"*{SUFFIX}")) == []
    said = commands.run(*once, timeout=120)
    assert said.returncode == 0, said.stderr
    assert re.search(r"[\d.e-]+ GB, of which", said.stdout.replace("\n", " "))
    killed = [path.read_bytes() for path in sorted(folder.glob(f"*{SUFFIX}"))]
    for path in folder.glob(f"*{SUFFIX}"):
        path.unlink()
    whole = run_all(embedder(tiny_t5, batch_tokens=16), folder)
    assert killed == [path.read_bytes() for path in whole]
    assert not list(folder.glob(".*.part*"))


@pytest.fixture
def train(tmp_path, tiny_t5, write_shard, make_clips) -> Callable[..., Path]:
    """Trains two steps of the demo's base on captions of T5, in a process of its own."""
    shards = tmp_path / "shards"
    write_shard(shards / "00000.tar", make_clips(16, frames=16))
    # torchmetrics imports transformers where it is installed; the encoder and its tokenizer cannot.
    blocked = ("transformers.models.t5.modeling_t5", "transformers.models.byt5.tokenization_byt5")
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n" + "".join(f"sys.modules[{name!r}] = None\n" for name in blocked)
    )

    def run(name: str, *more: str, blocked: bool = False, check: bool = True) -> Path:
        arguments = [
            *("stage=demo/base", "data=shards", f"data.shards={shards}", f"name={name}"),
            *("text@stage.text=t5", f"stage.text.name={tiny_t5}", "stage.text.width=16"),
            *("stage.text.dtype=float32", "stage.text.max_tokens=64", "trainer=cpu", "logger=csv"),
            *("stage.train.steps=2", "stage.train.global_batch=4", "data.loading.num_workers=0"),
            *("stage.net.width=64", "stage.net.depth=1", "callbacks.samples.every_n_steps=1000"),
            *("trainer.log_every_n_steps=1", f"paths.runs={tmp_path}", *more),
        ]
        env = os.environ | {"OMP_NUM_THREADS": "1"}
        if blocked:
            env["PYTHONPATH"] = os.pathsep.join([str(tmp_path), str(Path.cwd())])
        done = subprocess.run(
            [sys.executable, "-m", "cascade.train", *arguments],
            env=env,
            capture_output=True,
            text=True,
            timeout=200,
        )
        if check:
            assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        else:
            assert done.returncode != 0
        return tmp_path / "demo/base" / name

    return run


@pytest.mark.slow
def test_training_with_the_store_equals_training_with_the_encoder(train, tiny_t5, tmp_path):
    shards = tmp_path / "shards"
    run_all(embedder(tiny_t5), shards)
    with_encoder = train("encoder")
    train("cannot", blocked=True, check=False)
    stored = train("stored", f"stage.text.embeddings={shards}", blocked=True)
    one, two = (dict(read_curves(run)["train/loss"]) for run in (with_encoder, stored))
    assert list(one) == list(two) == [0, 1]
    for step in one:
        assert abs(one[step] - two[step]) < 1e-3 * abs(one[step])
    # The bundle knows which encoder, but not where anything lay; and samples with the encoder.
    text = read_stage(stored / "bundle")["text"]
    assert "embeddings" not in text
    assert text["fingerprint"] == embedder(tiny_t5).made.fingerprint
    assert text == read_stage(with_encoder / "bundle")["text"]
    stage = load_stage(stored / "bundle")
    video = stage.sample(
        ["never stored"], grid=Grid(frames=8, height=16, width=16, fps=4), seeds=[0], steps=1
    )
    assert video.isfinite().all()
    assert set(stage.text._loaded) == {"tokenizer", "encoder"}
