"""The network of a stage: its sizes, the grids it runs on, and what a forward pass costs."""

import math
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cascade.codec import Codec
from cascade.meta import on_meta
from cascade.stage import Kind, Noised, TrainableStage

#: Tokens of text in a forward pass whose cost is counted.
DRY_TOKENS = 32


def in_channels(kind: Kind, codec: Codec) -> int:
    """The network's input channels: [z, low, given, mask]; a base has no `low`."""
    latents = 3 if kind.takes_low else 2
    return latents * codec.channels + codec.cell


def multiple(net: nn.Module, kind: Kind, codec: Codec) -> tuple[int, int, int]:
    """The numbers that frames, height and width in pixels must be multiples of."""
    of_net = cast(tuple[int, int, int], tuple(cast(Any, net).multiple))
    scale = (kind.scale.time, kind.scale.space, kind.scale.space)
    sides = zip(of_net, codec.factor, scale, strict=True)
    frames, height, width = (math.lcm(n * c, s) for n, c, s in sides)
    return frames, height, width


def set_trained_frames(net: nn.Module, frames: int) -> None:
    """Set the latent frames of a training clip, if the network has positions that depend on it."""
    if hasattr(net, "trained_frames"):
        cast(Any, net).trained_frames = frames


def dry_forward(stage: TrainableStage, shape: tuple[int, int, int]) -> Callable[[], object]:
    """A forward pass on the meta device for one clip of `shape` in pixels."""
    frames, height, width = shape
    if frames == 1:  # an image is repeated to the fewest frames that the stage takes
        frames = stage.multiple[0]
    with on_meta():
        net = stage.new_net()
        sides = stage.codec.shape((frames, height, width))
        inputs = (
            torch.empty(1, in_channels(stage.kind, stage.codec), *sides),
            torch.empty(1, sides[0]),
            torch.empty(1, DRY_TOKENS, stage.text.width),
            torch.empty(1, DRY_TOKENS, dtype=torch.bool),
            torch.empty(1, len(stage.kind.scalars)),
        )
    return lambda: net(*inputs)


def packed(
    stage: TrainableStage,
    inputs: Sequence[Float[Tensor, "channels _f _h _w"]],
    parts: Sequence[Noised],
) -> list[Float[Tensor, "c _f _h _w"]]:
    """The network's outputs for clips of several shapes in one packed sequence.

    Raises:
        ValueError: the network cannot pack.
    """
    forward_packed = getattr(stage.net, "forward_packed", None)
    if forward_packed is None:
        raise ValueError(
            f"stage {stage.name}: its network {type(stage.net).__name__} does not pack clips of "
            "several shapes; set data.batching=buckets"
        )
    conditions = [part.condition for part in parts]
    outs: list[Tensor] = forward_packed(
        list(inputs),
        [part.logsnr[0] for part in parts],
        [cond.text.tokens[0, cond.text.mask[0]] for cond in conditions],
        torch.cat([cond.scalars for cond in conditions]),
    )
    return outs
