"""How often each way to prompt is practised, and what is given of a training clip."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from cascade import keyed
from cascade.conditioning.choose import way_named
from cascade.conditioning.given import Clip, Given
from cascade.conditioning.registry import ways
from cascade.conditioning.room import Room


class Modes:
    """Draws a way to prompt for each training clip.

    A clip too short for a way (an image has one frame) shares out that way's part among the others.

    Args:
        shares: how often each way is practised, by name, made to sum to 1; a way that is not
            listed is never practised.
        stride: the base of the cascade makes every so many-th frame of this stage.
        only: the one way to practise, whatever the shares are.
    """

    def __init__(
        self, *, shares: Mapping[str, float], stride: int = 1, only: str | None = None
    ) -> None:
        chosen = shares if only is None else {only: 1.0}
        for name, share in {**shares, **chosen}.items():
            if way_named(name, "modes: ").draw is None and share:
                raise ValueError(f"modes: {name} needs no practice, so its share must be 0")
            if not isinstance(share, int | float) or not 0 <= share < float("inf"):
                raise ValueError(f"modes: the share of {name} must be 0 or more, got {share}")
        self.shares = {name: float(chosen[name]) for name in ways if chosen.get(name)}
        if not self.shares:
            raise ValueError(f"modes: one share at least must be more than 0, got {dict(shares)}")
        self.stride = Room(1, stride).stride

    def probabilities(self, frames: int) -> dict[str, float]:
        """The chance of each way for clips of so many frames; text alone where none suits."""
        room = Room(frames, self.stride)
        suit = {name: share for name, share in self.shares.items() if ways[name].suits(room)}
        suit = suit or {"text": 1.0}
        return {name: share / sum(suit.values()) for name, share in suit.items()}

    def names(self, frames: int, *, seed: int, positions: Sequence[int]) -> list[str]:
        """The way drawn for each sample."""
        chances = self.probabilities(frames)
        ends = np.cumsum(list(chances.values()))
        drawn = np.searchsorted(ends, [keyed.uniform(seed, p, "mode") for p in positions])
        listed = list(chances)
        return [listed[min(i, len(listed) - 1)] for i in drawn.tolist()]

    def mask(
        self, shape: Sequence[int], *, seed: int, positions: Sequence[int]
    ) -> Bool[Tensor, "b 1 f h w"]:
        """What is given of clips of `shape`, (f, h, w), on the CPU.

        A function of (seed, position), whatever the batch. A side is 1 where the masks of all clips
        are the same along it.
        """
        frames, height, width = shape
        room = Room(frames, self.stride)
        masks = {}
        names = self.names(frames, seed=seed, positions=positions)
        for row, (name, position) in enumerate(zip(names, positions, strict=True)):
            draw = ways[name].draw
            if draw is not None and ways[name].fixes:
                rng = keyed.rng(seed, position, f"mode/{name}")
                masks[row] = draw(room, (height, width), rng)
        sides = np.broadcast_shapes((1, 1, 1), *(mask.shape for mask in masks.values()))
        drawn = np.zeros((len(names), 1, *sides), dtype=np.bool_)
        for row, mask in masks.items():
            drawn[row, 0] = mask
        return torch.from_numpy(drawn)

    def draw(self, clip: Clip, *, seed: int, positions: Sequence[int]) -> Given:
        """What is given of each clip; the masks reach the clips' device by one copy."""
        mask = self.mask(clip.shape[2:], seed=seed, positions=positions)
        if clip.is_cuda:
            mask = mask.pin_memory()  # the copy need not be waited for
        mask = mask.to(clip.device, non_blocking=True)
        frames = clip.masked_fill(~mask, 0.0)
        return Given(frames, mask.to(clip.dtype).expand(-1, -1, *clip.shape[2:]))
