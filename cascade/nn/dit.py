"""The base's network: a diffusion transformer with full attention over spacetime patches.

It has factorised 3-D rotary positions and absolute Fourier features, QK-norm, adaLN-single,
cross-attention to text, and optional long skips. It takes any (frames, height, width) that are
multiples of the patch, and several shapes in one packed sequence. A video of any length has the
range of positions in time of a training clip.
"""

from collections.abc import Sequence
from typing import cast

import torch
from jaxtyping import Bool, Complex64, Float
from torch import Tensor, nn

from cascade.nn.attention import Segments, TextMemory
from cascade.nn.block import Block, modulated, recomputed, residual
from cascade.nn.embed import NUM_BANDS, ConditionEmbedding, pooled, position_features, rotary
from cascade.nn.patch import Triple, in_patches, patchify, unpatchify


class DiT(nn.Module):
    """Diffusion transformer for video; an untrained one outputs zero.

    Raises:
        ValueError: `width` is not a multiple of `head_width`, or `head_width` not of 16.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        out_channels: int,
        text_width: int,
        num_scalars: int,
        width: int,
        depth: int,
        head_width: int = 64,
        patch: Sequence[int] = (2, 4, 4),
        mlp_ratio: float = 4.0,
        rope_theta: float = 100.0,
        long_skips: bool = False,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        if width % head_width or head_width % 16:
            raise ValueError(
                f"DiT: width must be a multiple of head_width, and head_width of 16, "
                f"got width {width} and head_width {head_width}"
            )
        sides = [patch] if isinstance(patch, int) else [*patch]
        if len(sides) != 3 or not all(isinstance(n, int) and n >= 1 for n in sides):
            raise ValueError(
                f"DiT: patch must be three whole numbers of at least 1 (frames, height, width), "
                f"got {patch}"
            )
        frames, height, breadth = sides
        self.multiple: Triple = (frames, height, breadth)
        self.head_width, self.rope_theta = head_width, rope_theta
        #: Frames of a training clip, the range of positions in time of videos of any length; its
        #: stage sets it. None: positions are counted.
        self.trained_frames: int | None = None
        self.checkpointing = checkpointing
        volume = frames * height * breadth
        self.embed = nn.Linear(in_channels * volume, width)
        self.position = nn.Linear(3 * 2 * NUM_BANDS, width, bias=False)
        self.condition = ConditionEmbedding(
            width=width,
            text_width=text_width,
            num_scalars=num_scalars,
            stride=frames,
            timed=True,
        )
        self.memory = TextMemory(text_width, width)
        self.modulation = nn.Linear(width, 6 * width)
        self.blocks = nn.ModuleList(
            Block(
                width=width,
                heads=width // head_width,
                mlp_ratio=mlp_ratio,
                long_skip=long_skips and index >= (depth + 1) // 2,
            )
            for index in range(depth)
        )
        self.last_modulation = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, out_channels * volume)
        for layer in (self.modulation, self.last_modulation, self.out):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(
        self,
        x: Float[Tensor, "b c_in f h w"],
        logsnr: Float[Tensor, "b f"],
        text: Float[Tensor, "b l d"],
        text_mask: Bool[Tensor, "b l"],
        scalars: Float[Tensor, "b k"],
    ) -> Float[Tensor, "b c_out f h w"]:
        """The prediction for a batch of one shape."""
        shape = in_patches(x.shape[2:], self.multiple, name="DiT")
        tokens = self._tokens(x, shape)
        vector = self.condition(logsnr, scalars, pooled(text, text_mask)).unsqueeze(2)
        text, text_mask = self.memory.padded(text, text_mask)
        memory, mask = self.memory(text), self.memory.mask(text_mask)
        tokens = self._trunk(tokens, vector, self._rotations(shape, x.device), memory, mask, None)
        return unpatchify(tokens, shape, self.multiple)

    def forward_packed(
        self,
        xs: Sequence[Float[Tensor, "c_in _f _h _w"]],
        logsnr: Sequence[Float[Tensor, " _f"]],
        text: Sequence[Float[Tensor, "_l d"]],
        scalars: Float[Tensor, "n k"],
    ) -> list[Float[Tensor, "c_out _f _h _w"]]:
        """The predictions for videos of several shapes, packed in one sequence.

        Attention stays within each video, so the result equals `forward` on each video alone, up to
        rounding. Texts have no padding.
        """
        shapes = [in_patches(x.shape[1:], self.multiple, name="DiT") for x in xs]
        tokens = [
            self._tokens(x.unsqueeze(0), shape).flatten(1, 2)
            for x, shape in zip(xs, shapes, strict=True)
        ]
        vectors = [
            self.condition(
                one.unsqueeze(0),
                scalar.unsqueeze(0),
                words.sum(0, keepdim=True) / max(len(words), 1) ** 0.5,
            ).repeat_interleave(shape[1] * shape[2], dim=1)
            for one, scalar, words, shape in zip(logsnr, scalars, text, shapes, strict=True)
        ]
        memory = [self.memory(words.unsqueeze(0)) for words in text]
        lengths = tuple(part.shape[1] for part in tokens)
        segments = (
            Segments(lengths, lengths),
            Segments(lengths, tuple(part.shape[1] for part in memory)),
        )
        out = self._trunk(
            torch.cat(tokens, dim=1).unsqueeze(2),
            torch.cat(vectors, dim=1).unsqueeze(2),
            torch.cat([self._rotations(shape, xs[0].device) for shape in shapes]),
            torch.cat(memory, dim=1),
            None,
            segments,
        )
        return [
            unpatchify(part.view(1, shape[0], -1, part.shape[-1]), shape, self.multiple)[0]
            for part, shape in zip(torch.split(out, list(lengths), dim=1), shapes, strict=True)
        ]

    def _tokens(self, x: Tensor, shape: Triple) -> Tensor:
        weight = self.embed.weight
        place = self.position(position_features(*shape, x.device).to(weight.dtype))
        return cast(Tensor, self.embed(patchify(x.to(weight.dtype), self.multiple)) + place)

    def _rotations(self, shape: Triple, device: torch.device) -> Complex64[Tensor, "n 1 pairs"]:
        trained = self.trained_frames and self.trained_frames // self.multiple[0]
        return rotary(*shape, self.head_width, self.rope_theta, device, trained)

    def _trunk(
        self,
        x: Float[Tensor, "b f s d"],
        vector: Float[Tensor, "b f 1 d"],
        rotations: Complex64[Tensor, "n 1 pairs"],
        text: Float[Tensor, "b2 l d"],
        mask: Bool[Tensor, "b2 l"] | None,
        segments: tuple[Segments, Segments] | None,
    ) -> Float[Tensor, "b f s e"]:
        """The blocks and the output layer, for batches and packed sequences."""
        x, modulation = residual(x), self.modulation(vector).unflatten(-1, (6, -1))
        stack: list[Tensor] = []
        for index, block in enumerate(self.blocks):
            earlier = stack.pop() if cast(Block, block).skip is not None else None
            arguments = (x, modulation, rotations, text, mask, segments, earlier)
            if self.checkpointing and torch.is_grad_enabled():
                x = recomputed(block, *arguments)
            else:
                x = block(*arguments)
            if index < len(self.blocks) // 2:
                stack.append(x)
        shift, scale = self.last_modulation(vector).chunk(2, dim=-1)
        out: Tensor = self.out(modulated(x, shift, scale))
        return out
