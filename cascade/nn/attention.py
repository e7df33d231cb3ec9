"""Self-attention and cross-attention to text, within a sample or a packed sequence's segments.

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
from torch.nn.attention import SDPBackend, sdpa_kernel

from cascade.nn.embed import rotate

#: Attention kernels of a GPU, in the order of choice. With a mask cuDNN's is left out: it is built
#: anew, in half a second, for every length of the keys.
KERNELS = [
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
]
MASKED_KERNELS = [SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
#: On a GPU the number of a text's tokens is a multiple of this, so that few graphs are compiled.
TOKENS = 16


@dataclass(frozen=True)
class Segments:
    """Lengths of the samples in a packed sequence: of their queries and of their keys."""

    queries: tuple[int, ...]
    keys: tuple[int, ...]


@functools.cache
def _fmha() -> Any:
    """Xformers' attention, or None if it is not installed."""
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

    Packed sequences use xformers' block-diagonal kernel on CUDA if it is installed. Otherwise they
    use scaled dot-product attention segment by segment (xformers has no CPU kernel).
    """
    if segments is None:
        every = None if mask is None else mask[:, None, None, :]
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))
        if not q.is_cuda:
            return F.scaled_dot_product_attention(q, k, v, attn_mask=every).transpose(1, 2)
        with sdpa_kernel(KERNELS if every is None else MASKED_KERNELS, set_priority=True):
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


def kernel_named(q: Float[Tensor, "b n h d"], k: Float[Tensor, "b m h d"], *, masked: bool) -> str:
    """The name of the kernel by which torch attends to keys `k` with or without a mask."""
    mask = q.new_ones(len(q), 1, 1, k.shape[1], dtype=torch.bool) if masked else None
    q, k = q.transpose(1, 2), k.transpose(1, 2)
    with sdpa_kernel(MASKED_KERNELS if masked else KERNELS, set_priority=True):
        chosen = torch._fused_sdp_choice(q, k, k, attn_mask=mask)
    return SDPBackend(chosen).name.lower().removesuffix("_attention")


class HeadNorm(nn.Module):
    """RMSNorm per head, with one learned gain per head."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(heads))

    def forward(self, x: Float[Tensor, "b n h d"]) -> Float[Tensor, "b n h d"]:
        """Equation: x · gain / rms(x)."""
        gain = self.gain.to(x.dtype)
        if x.is_cuda:
            return F.rms_norm(x, x.shape[-1:], eps=1e-6) * gain.unsqueeze(-1)
        # On a CPU this takes half the time of F.rms_norm, with the gain in the same product.
        square: Tensor = torch.linalg.vecdot(x, x) / x.shape[-1]
        return x * ((square + 1e-6).rsqrt() * gain).unsqueeze(-1)


class SelfAttention(nn.Module):
    """Every token attends to every token of its sample, with optional rotary positions."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.norm = HeadNorm(2 * heads)
        self.out = nn.Linear(width, width, bias=False)

    def forward(
        self,
        x: Float[Tensor, "b n d"],
        rotations: Complex64[Tensor, "n 1 pairs"] | None = None,
        segments: Segments | None = None,
        mask: Bool[Tensor, "b n"] | None = None,
    ) -> Float[Tensor, "b n d"]:
        """The attended tokens; `rotations` encode the positions (`embed.rotary`)."""
        qkv = self.qkv(x).unflatten(-1, (3 * self.heads, -1))
        qk, v = torch.split(qkv, [2 * self.heads, self.heads], dim=2)
        qk = self.norm(qk) if rotations is None else rotate(self.norm(qk), rotations)
        q, k = qk.to(v.dtype).chunk(2, dim=2)
        out: Tensor = self.out(attend(q, k, v, mask=mask, segments=segments).flatten(2))
        return out


class CrossAttention(nn.Module):
    """Every token attends to the text; the output layer is zero-initialised."""

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
        """The tokens' attention to the text tokens for which `mask` is true."""
        q = self.norm_q(self.q(x).unflatten(-1, (self.heads, -1)))
        k, v = self.kv(text).unflatten(-1, (2 * self.heads, -1)).chunk(2, dim=2)
        k = self.norm_k(k)
        dtype = v.dtype
        out = attend(q.to(dtype), k.to(dtype), v, mask=mask, segments=segments)
        result: Tensor = self.out(out.flatten(2))
        return result


class TextMemory(nn.Module):
    """The tokens for cross-attention: a learned token, then the text projected and normalised.

    The learned token is never masked, so attention is defined without text or with all text masked.
    """

    def __init__(self, text_width: int, width: int) -> None:
        super().__init__()
        self.project = nn.Linear(text_width, width)
        self.null = nn.Parameter(torch.randn(width))

    def forward(self, text: Float[Tensor, "b l d"]) -> Float[Tensor, "b m width"]:
        """The learned token and the text's tokens; m = l + 1."""
        tokens = self.project(text.to(self.project.weight.dtype))
        null = self.null.to(tokens.dtype).expand(len(text), 1, -1)
        tokens = torch.cat((null, tokens), dim=1)
        return F.layer_norm(tokens, tokens.shape[-1:]).to(tokens.dtype)

    @staticmethod
    def mask(mask: Bool[Tensor, "b l"]) -> Bool[Tensor, "b m"]:
        """The text's mask, preceded by the learned token's."""
        return F.pad(mask, (1, 0), value=True)

    @staticmethod
    def padded(
        text: Float[Tensor, "b l d"], mask: Bool[Tensor, "b l"]
    ) -> tuple[Float[Tensor, "b l2 d"], Bool[Tensor, "b l2"]]:
        """On a GPU, masked tokens are added until l + 1 is a multiple of `TOKENS`."""
        more = -(text.shape[1] + 1) % TOKENS if text.is_cuda else 0
        return (F.pad(text, (0, 0, 0, more)), F.pad(mask, (0, more))) if more else (text, mask)
