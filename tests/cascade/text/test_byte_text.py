"""Laws of the text encoders: any language, no caption sees another."""

import pytest
import torch

from cascade.text.byte_text import PAD_BYTE, ByteText, split_words

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


def test_a_trained_encoder_takes_no_stored_embeddings(encoder: ByteText) -> None:
    with pytest.raises(ValueError, match="trained with its stage, so it takes no stored"):
        encoder(["a"], [torch.zeros(1, 64)])
