"""A small text encoder of UTF-8 bytes, trained with its stage."""

import re
from collections.abc import Sequence
from typing import NamedTuple, cast

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from cascade.nn.attention import SelfAttention
from cascade.nn.block import Mlp
from cascade.nn.embed import NUM_BANDS, fourier
from cascade.text.encoder import Known, TextEncoder, TextFeatures
from cascade.transfer import sent

PAD_BYTE = 256
PUNCTUATION = re.compile(rb"[!-/:-@\[-`{-~]")  # every such byte is a word of its own


class _TextBlock(nn.Module):
    """Pre-norm self-attention and MLP."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention = SelfAttention(width, heads)
        self.mlp = Mlp(width, 4.0)

    def forward(
        self, x: Float[Tensor, "b l d"], mask: Bool[Tensor, "b l"]
    ) -> Float[Tensor, "b l d"]:
        x = x + self.attention(F.layer_norm(x, x.shape[-1:]), mask=mask)
        return cast(Tensor, x + self.mlp(F.layer_norm(x, x.shape[-1:])))


class Words(NamedTuple):
    """The distinct words of a batch, and the caption and position of each occurrence."""

    bytes: Int[np.ndarray, "distinct word_bytes"]
    which: Int[np.ndarray, " words"]
    caption: Int[np.ndarray, " words"]
    place: Int[np.ndarray, " words"]


def split_words(captions: Sequence[bytes], word_bytes: int) -> Words:
    """Split at white space; longer runs of bytes (Chinese has no spaces) are split into chunks."""
    text = np.frombuffer(b" ".join(captions) + b" ", np.uint8)  # one space after each caption
    lengths = np.array([len(c) + 1 for c in captions])
    owner = np.repeat(np.arange(len(captions)), lengths)
    space = np.isin(text, np.frombuffer(b" \t\n\r\v\f", np.uint8))
    index = np.arange(len(text))
    run_start = np.maximum.accumulate(np.where(space, index + 1, 0))  # after the last space
    within = index - run_start
    inside = ~space
    starts = inside & (within % word_bytes == 0)
    word = np.cumsum(starts) - 1
    table = np.full((int(starts.sum()), word_bytes), PAD_BYTE)
    table[word[inside], within[inside] % word_bytes] = text[inside]
    distinct, which = np.unique(table, axis=0, return_inverse=True)
    caption = owner[starts]
    first = np.searchsorted(caption, np.arange(len(captions)))
    return Words(distinct, which.reshape(-1), caption, np.arange(len(caption)) - first[caption])


class ByteText(TextEncoder):
    """A small text encoder of UTF-8 bytes for any language, trained with its stage.

    The bytes of a word (at most `word_bytes`) become one token; `depth` transformer layers follow.
    Every caption starts with a begin token, so the empty caption is defined. A word that occurs
    several times in a batch is computed once.
    """

    def __init__(
        self,
        *,
        width: int,
        depth: int,
        max_bytes: int = 512,
        word_bytes: int = 16,
        head_width: int = 64,
    ) -> None:
        super().__init__()
        if width % head_width:
            raise ValueError(
                f"ByteText: width must be a multiple of head_width, got {width} and {head_width}"
            )
        self.width, self.max_bytes, self.word_bytes = width, max_bytes, word_bytes
        self.letters = nn.Embedding(PAD_BYTE + 1, width, padding_idx=PAD_BYTE)
        self.spelling = nn.Parameter(torch.randn(word_bytes, width))
        self.word = Mlp(width, 2.0)
        self.begin = nn.Parameter(torch.randn(width))
        self.place = nn.Linear(2 * NUM_BANDS, width, bias=False)
        self.blocks = nn.ModuleList(_TextBlock(width, width // head_width) for _ in range(depth))

    def check(self, prompt: str) -> None:
        """Refuse a prompt of more than `max_bytes` bytes of UTF-8."""
        size = len(prompt.encode("utf-8", errors="replace"))
        if size > self.max_bytes:
            raise ValueError(
                f"ByteText: takes at most {self.max_bytes} bytes of UTF-8, the prompt has {size}; "
                "shorten it, or train with a larger stage.text.max_bytes"
            )

    def prepare(self) -> None:
        """Nothing to load: the weights are part of the stage."""

    def forward(self, captions: Sequence[str], known: Known | None = None) -> TextFeatures:
        """One begin token and one token per word.

        Raises:
            ValueError: the batch has stored embeddings, which a trained encoder cannot use.
        """
        if known is not None:
            raise ValueError(
                "ByteText: is trained with its stage, so it takes no stored embeddings, but the "
                "batch has them; use text@stage.text=t5, or data without embeddings"
            )
        encoded = [caption.encode("utf-8", errors="replace") for caption in captions]
        self.truncated += sum(len(caption) > self.max_bytes for caption in encoded)
        cut = [PUNCTUATION.sub(rb" \g<0> ", caption[: self.max_bytes]) for caption in encoded]
        words = split_words(cut, self.word_bytes)
        device, count = self.begin.device, int(words.place.max(initial=-1)) + 2
        caption, place, which = (
            sent(torch.from_numpy(a), device) for a in (words.caption, words.place, words.which)
        )
        features = self._spell(sent(torch.from_numpy(words.bytes), device))
        x = features.new_zeros(len(captions), count, self.width)
        x = x.index_put((caption, place + 1), features[which])
        mask = torch.zeros(x.shape[:2], dtype=torch.bool, device=device)
        mask[caption, place + 1] = mask[:, 0] = True
        order = fourier(torch.arange(count, device=device) / 32).to(self.place.weight.dtype)
        x = x + self.place(order) + F.pad(self.begin.view(1, 1, -1), (0, 0, 0, count - 1))
        for block in self.blocks:
            x = block(x, mask)
        return TextFeatures(x * mask.unsqueeze(-1), mask)

    def _spell(self, letters: Int[Tensor, "words letters"]) -> Float[Tensor, "words d"]:
        """A word's vector, about 1 in scale: the sum of each byte's embedding times its position's.

        Products with zero mean keep different words nearly orthogonal from the first step. Sums
        through an activation share a large common part, and the stage learns to distinguish
        captions late.
        """
        here = (letters != PAD_BYTE).unsqueeze(-1)
        x = (self.letters(letters) * self.spelling).sum(1)
        x = x / here.sum(1).clamp(min=1).to(x.dtype).sqrt()
        return cast(Tensor, x + self.word(F.layer_norm(x, x.shape[-1:])))
