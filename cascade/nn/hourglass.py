"""The super-resolution stages' network: a local hourglass whose cost is linear in pixels.

It applies separable (2+1)-dimensional convolutions on a spatial pyramid, mostly at low resolution.
It has no absolute positions and no pooling over space or time, so it can train on crops and run on
full frames; both agree farther than `receptive_field` from the crop's border. Borders are
zero-padded. Conditions enter per frame (adaLN), text by cross-attention at the coarsest levels.
Inside, videos have the layout `b f h w c`: convolutions read it as channels-last without a copy, in
space over (b f) and in time over (h w).
"""

from collections.abc import Sequence
from typing import cast

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from cascade.nn.attention import CrossAttention, TextMemory
from cascade.nn.block import modulated, recomputed, residual
from cascade.nn.embed import ConditionEmbedding, pooled
from cascade.nn.patch import Triple, in_patches


def unshuffle(x: Float[Tensor, "b f h w c"], factor: int) -> Float[Tensor, "b f h2 w2 c2"]:
    """Space to channels: every `factor` × `factor` square becomes one position."""
    return rearrange(x, "b f (h j) (w k) c -> b f h w (j k c)", j=factor, k=factor)


def shuffle(x: Float[Tensor, "b f h w c"], factor: int) -> Float[Tensor, "b f h2 w2 c2"]:
    """The inverse of `unshuffle`."""
    return rearrange(x, "b f h w (j k c) -> b f (h j) (w k) c", j=factor, k=factor)


class LocalBlock(nn.Module):
    """Cross-attention, then norm and modulation, 3×3 convolution, GELU, temporal convolution, gate.

    A block widens the receptive field by one position on every side and one frame either way.
    """

    def __init__(self, *, width: int, expansion: int, heads: int | None) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(3, width))
        self.space = nn.Conv2d(width, expansion * width, 3, padding=1)
        self.time = nn.Conv2d(expansion * width, width, (3, 1), padding=(1, 0))
        self.text = CrossAttention(width, heads, width) if heads is not None else None

    def forward(
        self,
        x: Float[Tensor, "b f h w c"],
        modulation: Float[Tensor, "b f 1 1 three c"],
        text: Float[Tensor, "b l c"] | None,
        mask: Bool[Tensor, "b l"],
    ) -> Float[Tensor, "b f h w c"]:
        """The video after this block."""
        if self.text is not None and text is not None:
            x = x + self.text(x.flatten(1, 3), text, mask).view_as(x)
        shift, scale, gate = (modulation + self.table).unbind(-2)
        y = modulated(x, shift, scale)
        y = F.gelu(self.space(y.flatten(0, 1).permute(0, 3, 1, 2)))
        y = y.permute(0, 2, 3, 1).reshape(*x.shape[:2], -1, y.shape[1])
        y = self.time(y.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return torch.addcmul(x, gate, y.reshape(x.shape))


class Hourglass(nn.Module):
    """A local network for super-resolution in space or time; an untrained one outputs zero.

    `widths` and `depths` go from the finest level to the coarsest. A level has `depth` blocks on
    the way down and as many on the way up; the coarsest has them once. Each level halves height and
    width; the finest works on squares of `patch` pixels. Frames are never strided. The coarsest
    `text_levels` levels have cross-attention to text.

    Raises:
        ValueError: `widths` and `depths` differ in length, or the width of a level with text is not
            a multiple of `head_width`.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        out_channels: int,
        text_width: int,
        num_scalars: int,
        widths: Sequence[int],
        depths: Sequence[int],
        patch: int = 2,
        expansion: int = 2,
        head_width: int = 64,
        text_levels: int = 1,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        levels = len(widths)
        if len(depths) != levels or any(w % head_width for w in widths[levels - text_levels :]):
            raise ValueError(
                f"Hourglass: every width needs one depth, and the widths of the {text_levels} "
                f"levels with text must be multiples of head_width {head_width}; got widths "
                f"{list(widths)} and depths {list(depths)}"
            )
        if not isinstance(patch, int) or patch < 1:
            raise ValueError(
                f"Hourglass: patch must be a whole number of at least 1, the side of a square in "
                f"pixels, got {patch}"
            )
        self.patch, self.depths, self.checkpointing = patch, tuple(depths), checkpointing
        self.head_width = head_width
        side = patch * 2 ** (levels - 1)
        self.multiple: Triple = (1, side, side)
        vector = widths[-1]
        self.condition = ConditionEmbedding(
            width=vector, text_width=text_width, num_scalars=num_scalars
        )
        self.embed = nn.Linear(in_channels * patch**2, widths[0])
        self.memories, self.modulations = nn.ModuleList(), nn.ModuleList()
        self.down_blocks, self.up_blocks = nn.ModuleList(), nn.ModuleList()
        self.downs, self.ups = nn.ModuleList(), nn.ModuleList()
        for level, (width, depth) in enumerate(zip(widths, depths, strict=True)):
            reads = level >= levels - text_levels
            if reads:
                self.memories.append(TextMemory(text_width, width))
            self.modulations.append(nn.Linear(vector, 3 * width))
            for ways in (self.down_blocks, self.up_blocks)[: 1 if level == levels - 1 else 2]:
                ways.append(
                    nn.ModuleList(
                        LocalBlock(
                            width=width,
                            expansion=expansion,
                            heads=width // head_width if reads else None,
                        )
                        for _ in range(depth)
                    )
                )
            if level < levels - 1:
                self.downs.append(nn.Linear(4 * width, widths[level + 1]))
                self.ups.append(nn.Linear(widths[level + 1], 4 * width))
        self.last_modulation = nn.Linear(vector, 2 * widths[0])
        self.out = nn.Linear(widths[0], out_channels * patch**2)
        self.direct_modulation = nn.Linear(vector, in_channels * patch**2)
        self.direct = nn.Linear(in_channels * patch**2, out_channels * patch**2, bias=False)
        ours = (self.last_modulation, self.direct_modulation, self.out)
        nn.init.zeros_(self.direct.weight)
        for layer in (*self.modulations, *ours):
            nn.init.zeros_(cast(Tensor, layer.weight))
            nn.init.zeros_(cast(Tensor, layer.bias))

    @property
    def receptive_field(self) -> tuple[int, int]:
        """The largest distance (in frames, in pixels) at which an output depends on the input.

        Traced backward from one output pixel as the interval [low, high] of the positions that it
        reads; the maximum over the pixel's positions in a cell of the coarsest level.
        """
        *fine, coarse = self.depths
        radius = 0
        for pixel in range(self.multiple[1]):
            low = high = pixel // self.patch
            for depth in fine:  # the way up, backward
                low, high = (low - depth) // 2, (high + depth) // 2
            low, high = low - coarse, high + coarse
            for depth in reversed(fine):  # the way down, backward
                low, high = 2 * low - depth, 2 * high + 1 + depth
            first, last = low * self.patch, high * self.patch + self.patch - 1
            radius = max(radius, pixel - first, last - pixel)
        return 2 * sum(fine) + coarse, radius

    def forward(
        self,
        x: Float[Tensor, "b c_in f h w"],
        logsnr: Float[Tensor, "b f"],
        text: Float[Tensor, "b l d"],
        text_mask: Bool[Tensor, "b l"],
        scalars: Float[Tensor, "b k"],
    ) -> Float[Tensor, "b c_out f h w"]:
        """The prediction for a batch of one shape."""
        in_patches(x.shape[2:], self.multiple, name="Hourglass")
        vector = self.condition(logsnr, scalars, pooled(text, text_mask))[:, :, None, None]
        text, text_mask = TextMemory.padded(text, text_mask)
        mask = TextMemory.mask(text_mask)
        memories = [None] * (len(self.modulations) - len(self.memories))
        memories += [memory(text) for memory in self.memories]
        levels = [
            (linear(vector).unflatten(-1, (3, -1)), memory)
            for linear, memory in zip(self.modulations, memories, strict=True)
        ]
        cells = unshuffle(x.permute(0, 2, 3, 4, 1).to(self.embed.weight.dtype), self.patch)
        x = residual(self.embed(cells))
        skips: list[Tensor] = []
        for level, blocks in enumerate(self.down_blocks):
            x = self._run(blocks, x, *levels[level], mask)
            if level < len(self.downs):
                skips.append(x)
                x = residual(self.downs[level](unshuffle(x, 2)))
        for level in reversed(range(len(self.ups))):
            x = skips.pop() + shuffle(self.ups[level](x), 2)
            x = self._run(self.up_blocks[level], x, *levels[level], mask)
        shift, scale = self.last_modulation(vector).chunk(2, dim=-1)
        # The direct path: a linear map from input to output, scaled by the noise level.
        direct = self.direct(cells * (1 + self.direct_modulation(vector)))
        x = self.out(modulated(x, shift, scale)) + direct
        return shuffle(x, self.patch).permute(0, 4, 1, 2, 3)

    def _run(
        self,
        blocks: nn.Module,
        x: Float[Tensor, "b f h w c"],
        modulation: Float[Tensor, "b f 1 1 three c"],
        text: Float[Tensor, "b l c"] | None,
        mask: Bool[Tensor, "b l"],
    ) -> Float[Tensor, "b f h w c"]:
        for block in cast(nn.ModuleList, blocks):
            if self.checkpointing and torch.is_grad_enabled():
                x = recomputed(block, x, modulation, text, mask)
            else:
                x = block(x, modulation, text, mask)
        return x
