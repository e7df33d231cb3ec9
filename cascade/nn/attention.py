"""Attention: within a sample, or within each segment of a packed sequence; to itself and to text.

Queries and keys are RMS-normalised per head with one learned gain per head (QK-norm: training on
long videos diverges without it).
"""

import functools
import importlib.util
import logging
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Complex64, Float
from torch import Tensor, nn
from torch.nn import functional as F

from cascade.nn.embed import rotate


@dataclass(frozen=True)
class Segments:
    """Lengths of the samples packed in one sequence: of their queries and of their keys."""

    queries: tuple[int, ...]
    keys: tuple[int, ...]


@functools.cache
def _fmha() -> Any:
    """Xformers' attention, or None where it is not installed."""
    if importlib.util.find_spec("xformers") is None:
        return None
    logging.getLogger("xformers").setLevel(logging.ERROR)
    return importlib.import_module("xformers.ops.fmha")


@functools.lru_cache(maxsize=64)
def _block_diagonal(segments: Segments) -> Any:
    mask = _fmha().attn_bias.BlockDiagonalMask
    return mask.from_seqlens(list(segments.queries), list(segments.keys))


def attend(
    q: Float[Tensor, "b n h d"],
    k: Float[Tensor, "b m h d"],
    v: Float[Tensor, "b m h d"],
    *,
    mask: Bool[Tensor, "b m"] | None = None,
    segments: Segments | None = None,
) -> Float[Tensor, "b n h d"]:
    """Attention over all keys, over those where `mask` is true, or block-diagonal by `segments`.

    Packed sequences take xformers' block-diagonal kernel on CUDA where it is installed, and scaled
    dot-product attention segment by segment elsewhere (xformers has no CPU kernel).
    """
    if segments is None:
        every = None if mask is None else mask[:, None, None, :]
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))
        return F.scaled_dot_product_attention(q, k, v, attn_mask=every).transpose(1, 2)
    if q.is_cuda and _fmha() is not None:
        bias = _block_diagonal(segments)
        out: Tensor = _fmha().memory_efficient_attention(q, k, v, attn_bias=bias)
        return out
    parts = zip(
        torch.split(q, list(segments.queries), dim=1),
        torch.split(k, list(segments.keys), dim=1),
        torch.split(v, list(segments.keys), dim=1),
        strict=True,
    )
    return torch.cat([attend(*part) for part in parts], dim=1)


class HeadNorm(nn.Module):
    """RMSNorm of every head, with one learned gain per head."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(heads))

    def forward(self, x: Float[Tensor, "b n h d"]) -> Float[Tensor, "b n h d"]:
        """Equation: x · gain / rms(x)."""
        gain = self.gain.to(x.dtype)
        if x.is_cuda:
            return F.rms_norm(x, x.shape[-1:], eps=1e-6) * gain.unsqueeze(-1)
        # Half the time of F.rms_norm on a CPU, and the gain costs nothing.
        square: Tensor = torch.linalg.vecdot(x, x) / x.shape[-1]
        return x * ((square + 1e-6).rsqrt() * gain).unsqueeze(-1)


class SelfAttention(nn.Module):
    """Every token attends to every token of its sample, with rotary positions where given."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.norm = HeadNorm(2 * heads)
        self.out = nn.Linear(width, width, bias=False)

    def forward(
        self,
        x: Float[Tensor, "b n d"],
        turns: Complex64[Tensor, "n 1 pairs"] | None = None,
        segments: Segments | None = None,
        mask: Bool[Tensor, "b n"] | None = None,
    ) -> Float[Tensor, "b n d"]:
        """The attended tokens; `turns` are the positions (`embed.rotary`)."""
        qkv = self.qkv(x).unflatten(-1, (3 * self.heads, -1))
        qk, v = torch.split(qkv, [2 * self.heads, self.heads], dim=2)
        qk = self.norm(qk) if turns is None else rotate(self.norm(qk), turns)
        q, k = qk.to(v.dtype).chunk(2, dim=2)
        out: Tensor = self.out(attend(q, k, v, mask=mask, segments=segments).flatten(2))
        return out


class CrossAttention(nn.Module):
    """Every token attends to the text; its output layer begins at zero."""

    def __init__(self, width: int, heads: int, text_width: int) -> None:
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(width, width, bias=False)
        self.kv = nn.Linear(text_width, 2 * width, bias=False)
        self.norm_q = HeadNorm(heads)
        self.norm_k = HeadNorm(heads)
        self.out = nn.Linear(width, width, bias=False)
        nn.init.zeros_(self.out.weight)

    def forward(
        self,
        x: Float[Tensor, "b n d"],
        text: Float[Tensor, "b l e"],
        mask: Bool[Tensor, "b l"] | None,
        segments: Segments | None = None,
    ) -> Float[Tensor, "b n d"]:
        """What the tokens read in the text, where `mask` is true."""
        q = self.norm_q(self.q(x).unflatten(-1, (self.heads, -1)))
        k, v = self.kv(text).unflatten(-1, (2 * self.heads, -1)).chunk(2, dim=2)
        k = self.norm_k(k)
        dtype = v.dtype
        out = attend(q.to(dtype), k.to(dtype), v, mask=mask, segments=segments)
        read: Tensor = self.out(out.flatten(2))
        return read


class TextMemory(nn.Module):
    """Text as the blocks read it: projected, normalised, led by a learned token.

    That one is always there: a sample without any text, or with all of it masked, is defined.
    """

    def __init__(self, text_width: int, width: int) -> None:
        super().__init__()
        self.project = nn.Linear(text_width, width)
        self.null = nn.Parameter(torch.randn(width))

    def forward(self, text: Float[Tensor, "b l d"]) -> Float[Tensor, "b m width"]:
        """One token more than the text has."""
        tokens = self.project(text.to(self.project.weight.dtype))
        null = self.null.to(tokens.dtype).expand(len(text), 1, -1)
        tokens = torch.cat((null, tokens), dim=1)
        return F.layer_norm(tokens, tokens.shape[-1:]).to(tokens.dtype)

    @staticmethod
    def mask(mask: Bool[Tensor, "b l"]) -> Bool[Tensor, "b m"]:
        """The text's mask with the learned token before it."""
        return F.pad(mask, (1, 0), value=True)
