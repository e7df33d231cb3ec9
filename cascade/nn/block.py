"""The transformer block of the diffusion transformer: adaLN-single, attention, text, MLP."""

from typing import cast

import torch
from jaxtyping import Bool, Complex64, Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from cascade.nn.attention import CrossAttention, Segments, SelfAttention


def modulated(
    x: Float[Tensor, "*shape d"], shift: Float[Tensor, "*frame d"], scale: Float[Tensor, "*frame d"]
) -> Float[Tensor, "*shape d"]:
    """norm(x) · (1 + scale) + shift (DiT, adaLN)."""
    return torch.addcmul(shift, F.layer_norm(x, x.shape[-1:]), 1 + scale)


def residual(x: Float[Tensor, "*shape d"]) -> Float[Tensor, "*shape d"]:
    """The input of the first block, in float32 under autocast, as every block returns it.

    So all blocks of one shape share a graph when they are compiled.
    """
    return x.float() if x.is_cuda and torch.is_autocast_enabled("cuda") else x


def recomputed(block: nn.Module, *arguments: object) -> Tensor:
    """A block's output; its inner activations are recomputed in the backward pass.

    A block draws no random numbers, so no generator state is saved.
    """
    out = checkpoint(block, *arguments, use_reentrant=False, preserve_rng_state=False)
    return cast(Tensor, out)


class Mlp(nn.Module):
    """Two linear layers with a GELU between them."""

    def __init__(self, width: int, ratio: float) -> None:
        super().__init__()
        self.up = nn.Linear(width, int(width * ratio))
        self.down = nn.Linear(int(width * ratio), width)

    def forward(self, x: Float[Tensor, "*shape d"]) -> Float[Tensor, "*shape d"]:
        """down(gelu(up(x)))."""
        out: Tensor = self.down(F.gelu(self.up(x)))
        return out


class Block(nn.Module):
    """Self-attention, cross-attention to text and MLP; an untrained block is the identity.

    All blocks share the modulation; each adds a learned table to it (adaLN-single, PixArt-α §2.3).
    Tokens have the layout `b f s d`, so that a frame's modulation `b f 1 d` broadcasts over its
    tokens. A packed sequence has b = 1, f = all tokens, s = 1.
    """

    def __init__(
        self, *, width: int, heads: int, mlp_ratio: float = 4.0, long_skip: bool = False
    ) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(6, width))
        self.attention = SelfAttention(width, heads)
        self.text = CrossAttention(width, heads, width)
        self.mlp = Mlp(width, mlp_ratio)
        self.skip = nn.Linear(2 * width, width) if long_skip else None

    def forward(
        self,
        x: Float[Tensor, "b f s d"],
        modulation: Float[Tensor, "b f 1 six d"],
        rotations: Complex64[Tensor, "n 1 pairs"],
        text: Float[Tensor, "b2 l d"],
        mask: Bool[Tensor, "b2 l"] | None,
        segments: tuple[Segments, Segments] | None = None,
        earlier: Float[Tensor, "b f s d"] | None = None,
    ) -> Float[Tensor, "b f s d"]:
        """The tokens after this block; `earlier` is the input of the long skip (U-ViT)."""
        if self.skip is not None and earlier is not None:
            x = self.skip(torch.cat((x, earlier), dim=-1))
        to_self, to_text = segments or (None, None)
        shift1, scale1, gate1, shift2, scale2, gate2 = (modulation + self.table).unbind(-2)
        y = self.attention(modulated(x, shift1, scale1).flatten(1, 2), rotations, to_self)
        x = torch.addcmul(x, gate1, y.view_as(x))
        x = x + self.text(x.flatten(1, 2), text, mask, to_text).view_as(x)
        return torch.addcmul(x, gate2, self.mlp(modulated(x, shift2, scale2)))
