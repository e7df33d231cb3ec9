"""Laws of the text encoders: any language, no caption sees another, a frozen T5 stays outside."""

import copy
from pathlib import Path

import pytest
import torch

from cascade.text import PAD_BYTE, ByteText, T5Text, split_words

CAPTIONS = ["a red circle moves left", "", "一只红色的大熊猫在竹林里慢慢地吃竹子", "é " * 40]


@pytest.fixture(scope="module")
def encoder() -> ByteText:
    torch.manual_seed(0)
    return ByteText(width=64, depth=2, head_width=32, max_bytes=300)


def test_no_caption_depends_on_the_others_of_its_batch(encoder: ByteText) -> None:
    batch = encoder(CAPTIONS)
    for index, caption in enumerate(CAPTIONS):
        alone = encoder([caption])
        length = alone.tokens.shape[1]
        assert batch.mask[index].sum() == length == alone.mask.sum()
        torch.testing.assert_close(batch.tokens[index, :length], alone.tokens[0], atol=1e-6, rtol=0)
        assert (batch.tokens[index, length:] == 0).all()


def test_the_empty_caption_is_one_begin_token(encoder: ByteText) -> None:
    assert encoder(["", " \t\n"]).mask.tolist() == [[True], [True]]


def test_words_are_runs_of_bytes_and_long_runs_are_cut_in_chunks() -> None:
    words = split_words([b" ab  cd", b"", b"ab\n" + b"x" * 20], 16)
    spelled = [bytes(int(b) for b in words.bytes[i] if b != PAD_BYTE) for i in words.which]
    assert spelled == [b"ab", b"cd", b"ab", b"x" * 16, b"x" * 4]
    assert words.caption.tolist() == [0, 0, 2, 2, 2]
    assert words.place.tolist() == [0, 1, 0, 1, 2]
    assert len(words.bytes) == 4


@pytest.mark.parametrize(
    ("one", "other"), [("left", "right"), ("on", "no"), ("a b", "b a"), ("红", "绿")]
)
def test_different_words_and_orders_differ(encoder: ByteText, one: str, other: str) -> None:
    features = encoder([one, other])
    assert (features.tokens[0] - features.tokens[1]).abs().max() > 1e-2


def test_every_parameter_learns() -> None:
    encoder = ByteText(width=32, depth=1, head_width=32)
    encoder(CAPTIONS).tokens.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in encoder.parameters())


def test_long_captions_are_cut_and_counted_and_long_prompts_refused(encoder: ByteText) -> None:
    before = encoder.truncated
    encoder(["word " * 100, "short"])
    assert encoder.truncated == before + 1
    encoder.check("熊猫")
    with pytest.raises(ValueError, match="at most 300 bytes of UTF-8, the prompt has 10000"):
        encoder.check("a" * 10_000)


@pytest.fixture(scope="module")
def tiny_t5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("t5")
    torch.manual_seed(0)
    config = transformers.T5Config(
        vocab_size=384, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2
    )
    transformers.T5EncoderModel(config).save_pretrained(folder)
    transformers.ByT5Tokenizer().save_pretrained(folder)
    return folder


def t5(folder: Path, **options: object) -> T5Text:
    defaults = {"name": str(folder), "width": 16, "dtype": "float32"}
    return T5Text(**(defaults | options))  # type: ignore[arg-type]  # a test's own keywords


def test_t5_features_do_not_depend_on_the_batch(tiny_t5: Path) -> None:
    encoder = t5(tiny_t5)
    batch = encoder(["a red circle", "", "熊猫"])
    assert batch.mask.sum(1).tolist() == [13, 1, 7]
    torch.testing.assert_close(batch.tokens[2, :7], encoder(["熊猫"]).tokens[0])


def test_t5_is_no_part_of_the_stage(tiny_t5: Path) -> None:
    stage = torch.nn.ModuleDict({"text": t5(tiny_t5)})
    assert not stage["text"](["a"]).tokens.requires_grad
    assert not list(stage.parameters())
    assert not stage.state_dict()
    assert len(list(stage.modules())) == 2
    assert copy.deepcopy(stage)["text"](["a"]).tokens.shape == (1, 2, 16)


def test_t5_follows_the_stage_to_its_device(tiny_t5: Path) -> None:
    encoder = t5(tiny_t5).to("meta")
    with pytest.raises(RuntimeError, match="meta"):
        encoder(["a"])
    assert encoder.load()[1].device.type == "meta"


def test_t5_cuts_and_counts_captions_and_refuses_prompts(tiny_t5: Path) -> None:
    encoder = t5(tiny_t5, max_tokens=4)
    assert encoder(["abcdefg", "ab"]).mask.sum(1).tolist() == [4, 3]
    assert encoder.truncated == 1
    with pytest.raises(ValueError, match="at most 4 tokens, the prompt has 8"):
        encoder.check("abcdefg")


def test_t5_without_its_files_says_where_it_looked(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no T5 encoder and tokenizer at .*download=true"):
        t5(tmp_path / "nowhere")(["a"])


def test_t5_of_another_width_is_refused(tiny_t5: Path) -> None:
    with pytest.raises(ValueError, match=r"has width 16, the stage states 8; set text.width=16"):
        t5(tiny_t5, width=8).load()


def test_t5_without_transformers_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(ValueError, match=r"pip install 'cascade\[text\]'"):
        t5(Path("any")).load()
