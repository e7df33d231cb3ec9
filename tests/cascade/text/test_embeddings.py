"""Laws of stored embeddings: found by their text alone, read one at a time, of one encoder."""

import copy
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch

from cascade.text.embeddings import SUFFIX, EmbeddingFile, Embeddings, Layout, Made, digest
from cascade.text.encoder_files import NoEncoderError, find_encoder, fingerprint
from cascade.text.t5 import T5Text

MADE = Made(fingerprint="aa", encoder="tiny", max_tokens=8)


def layout(captions: list[str], lengths: list[int], width: int = 4, made: Made = MADE) -> Layout:
    order = sorted(range(len(captions)), key=lambda i: digest(captions[i]))
    ends = np.cumsum(lengths)
    return Layout(
        digests=np.array([list(digest(captions[i])) for i in order], np.uint8),
        starts=np.array([ends[i] - lengths[i] for i in order], np.int64),
        lengths=np.array([lengths[i] for i in order], np.int32),
        width=width,
        made=made,
    )


def write(path: Path, captions: dict[str, int], width: int = 4, made: Made = MADE) -> Path:
    """Captions with so many tokens each; every row holds the number of its caption."""
    plan = layout(list(captions), list(captions.values()), width, made)
    rows = np.repeat(np.arange(len(captions), dtype=np.float16), list(captions.values()))
    path.write_bytes(plan.head() + np.repeat(rows[:, None], width, 1).tobytes())
    assert path.stat().st_size == plan.bytes
    return path


def test_every_caption_is_found_at_its_true_length_in_whichever_file(tmp_path):
    many = {f"caption {i}": 1 + i % 7 for i in range(500)}
    write(tmp_path / f"a{SUFFIX}", many)
    write(tmp_path / f"b{SUFFIX}", {"": 1, "熊猫": 5, "\ud800 lone": 2})
    store = Embeddings.open(tmp_path, fingerprint="aa", max_tokens=8)
    for number, (caption, length) in enumerate(many.items()):
        assert np.array_equal(store.get(caption), np.full((length, 4), number, np.float16))
    assert store.get("熊猫").tolist() == [[1.0] * 4] * 5
    assert "\ud800 lone" in store
    assert store.get("caption 500") is None
    assert len(store) == 503


def test_the_file_is_plain_safetensors(tmp_path):
    path = write(tmp_path / f"a{SUFFIX}", {"": 1, "a": 3})
    found = safetensors.numpy.load_file(path)
    assert found["features"].shape == (4, 4)
    assert found["features"].dtype == np.float16


def test_one_caption_is_read_without_the_file(tmp_path):
    plan = layout(["", "deep"], [10**9, 3], width=4096)  # 8 TB, of holes
    path = tmp_path / f"a{SUFFIX}"
    with path.open("wb") as file:
        file.write(plan.head())
        file.truncate(plan.bytes)
        file.seek(len(plan.head()) + 2 * 4096 * 10**9)
        file.write(np.ones((3, 4096), np.float16).tobytes())
    found = Embeddings.open(path).get("deep")
    assert found.shape == (3, 4096)
    assert (found == 1).all()


def test_it_goes_to_other_processes_and_copies(tmp_path):
    store = Embeddings.open(write(tmp_path / f"a{SUFFIX}", {"": 1, "a": 3}))
    store.get("a")
    again = pickle.loads(pickle.dumps(store))
    assert np.array_equal(again.get("a"), store.get("a"))
    assert copy.deepcopy(store) is store


def test_another_encoder_or_length_is_refused_with_both_values(tmp_path):
    write(tmp_path / f"a{SUFFIX}", {"": 1})
    with pytest.raises(ValueError, match=r"by the encoder aa \(tiny\), but bb is needed"):
        Embeddings.open(tmp_path, fingerprint="bb")
    with pytest.raises(ValueError, match="truncated at 8 tokens, but 9 are needed; set stage"):
        Embeddings.open(tmp_path, max_tokens=9)
    other = Made(fingerprint="cc", encoder="other", max_tokens=8)
    write(tmp_path / f"b{SUFFIX}", {"": 1}, made=other)
    with pytest.raises(ValueError, match=r"cc \(other\), but aa is needed"):
        Embeddings.open(tmp_path)


def test_none_and_damaged_files_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"no file .*make embeddings SHARDS"):
        Embeddings.open(tmp_path)
    path = write(tmp_path / f"a{SUFFIX}", {"": 1, "a": 3})
    whole = path.read_bytes()
    for damaged in (whole[:-1], whole[:20], b"", b"\xff" * 64):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="is not a complete embedding file"):
            EmbeddingFile(path)
    plan = layout(["", "a"], [1, 3])
    astray = Layout(**{**vars(plan), "starts": plan.starts + 2})
    path.write_bytes(astray.head() + bytes(4 * 8))
    with pytest.raises(ValueError, match="points outside its 4 rows"):
        EmbeddingFile(path)
    safetensors.numpy.save_file({"features": np.zeros((1, 4), np.float16)}, path)
    with pytest.raises(ValueError, match="format None"):
        EmbeddingFile(path)


@pytest.fixture
def copy_of(tiny_t5, tmp_path):
    def make(name: str) -> Path:
        return Path(shutil.copytree(tiny_t5, tmp_path / name))

    return make


def test_the_fingerprint_is_of_weights_config_and_tokenizer(tiny_t5, copy_of):
    assert fingerprint(copy_of("same")) == fingerprint(tiny_t5)
    prints = {fingerprint(tiny_t5)}
    weights = copy_of("weights") / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-3] ^= 1
    weights.write_bytes(data)
    for name, old, new in (
        ("config.json", '"num_heads": 2', '"num_heads": 4'),
        ("tokenizer_config.json", "{", '{"extra": 1,'),
    ):
        path = copy_of(name) / name
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new, 1))
        prints.add(fingerprint(path.parent))
    assert len(prints | {fingerprint(weights.parent)}) == 4


def test_what_wrote_the_config_is_no_part_of_the_fingerprint(tiny_t5, copy_of):
    path = copy_of("newer") / "config.json"
    path.write_text(
        path.read_text().replace('"transformers_version": "5', '"transformers_version": "6')
    )
    assert path.read_text() != (tiny_t5 / "config.json").read_text()
    assert fingerprint(path.parent) == fingerprint(tiny_t5)


def test_files_that_are_missing_are_named(tmp_path, tiny_t5, copy_of):
    with pytest.raises(NoEncoderError, match=r"no T5 encoder .* download=true"):
        find_encoder(str(tmp_path / "nowhere"))
    folder = copy_of("bare")
    (folder / "model.safetensors").unlink()
    with pytest.raises(NoEncoderError, match="has no"):
        fingerprint(folder)


# The text encoder with a store -------------------------------------------------------------------


@pytest.fixture
def stored(tiny_t5, tmp_path):
    made = Made(fingerprint=fingerprint(tiny_t5), encoder="tiny", max_tokens=8)
    write(tmp_path / f"a{SUFFIX}", {"": 1, "a": 3}, 16, made)
    return {"width": 16, "max_tokens": 8, "embeddings": str(tmp_path)}


def test_with_a_store_the_encoder_is_never_loaded(tiny_t5, stored, monkeypatch):
    monkeypatch.setattr(T5Text, "_load", lambda *_, **__: pytest.fail("loaded"))
    text = T5Text(name=str(tiny_t5), **stored)
    text.prepare()
    features = text(["a", ""])
    assert features.mask.tolist() == [[True] * 3, [True, False, False]]
    assert features.tokens.dtype == torch.bfloat16  # as the encoder's would be
    assert features.tokens[0, 0, 0] == 1
    assert (features.tokens[1] == 0).all()


def test_a_missing_caption_is_named_with_the_way_out(tiny_t5, stored):
    text = T5Text(name=str(tiny_t5), **stored)
    with pytest.raises(ValueError, match=r"caption 'b' has no embedding among 2 .*make embeddings"):
        text(["a", "b"])


def test_what_came_with_the_batch_is_used(tiny_t5, stored):
    known = [torch.full((2, 16), 7.0).half(), None]
    features = T5Text(name=str(tiny_t5), **stored)(["never stored", "a"], known)
    assert features.mask.sum(1).tolist() == [2, 3]
    assert (features.tokens[0, :2] == 7).all()
    assert (features.tokens[1] == 1).all()
    alone = T5Text(name=str(tiny_t5), width=16, dtype="float32")
    torch.testing.assert_close(alone(["x", "a"], known).tokens[1, :2], alone(["a"]).tokens[0])


def test_a_store_of_another_encoder_is_refused_also_where_no_files_are(tiny_t5, stored, tmp_path):
    with pytest.raises(ValueError, match="but feed is needed"):
        T5Text(name=str(tiny_t5), fingerprint="feed", **stored).prepare()
    gone = str(tmp_path / "gone")
    true = fingerprint(tiny_t5)
    with pytest.raises(ValueError, match=rf"cannot be checked.*stage.text.fingerprint={true}"):
        T5Text(name=gone, **stored).prepare()
    T5Text(name=gone, fingerprint=true, **stored).prepare()


def test_another_encoder_than_the_stage_was_trained_with_is_refused(tiny_t5):
    T5Text(name=str(tiny_t5), width=16, fingerprint=fingerprint(tiny_t5)).prepare()
    with pytest.raises(
        ValueError, match=r"is the encoder \w+, but the stage was trained with feed"
    ):
        T5Text(name=str(tiny_t5), width=16, fingerprint="feed").prepare()
