"""How often training uses each way to prompt, and which frames of a clip are given."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from cascade import keyed
from cascade.conditioning.choose import way_named
from cascade.conditioning.given import Clip, Given
from cascade.conditioning.placement import Placement
from cascade.conditioning.registry import ways
from cascade.transfer import sent


class Modes:
    """Draws a way to prompt for each training clip.

    If a clip is too short for a way (an image has one frame), the other ways share its probability.

    Args:
        shares: how often training uses each way, by name, normalised to a sum of 1; a way that is
            not listed is never used.
        stride: the base of the cascade generates every `stride`-th frame of this stage.
        only: the only way to train, instead of `shares`.
    """

    def __init__(
        self, *, shares: Mapping[str, float], stride: int = 1, only: str | None = None
    ) -> None:
        chosen = shares if only is None else {only: 1.0}
        for name, share in {**shares, **chosen}.items():
            if way_named(name, "modes: ").draw is None and share:
                raise ValueError(
                    f"modes: {name} is not trained, so its share must be 0, got {share}"
                )
            if not isinstance(share, int | float) or not 0 <= share < float("inf"):
                raise ValueError(f"modes: the share of {name} must be 0 or more, got {share}")
        self.shares = {name: float(chosen[name]) for name in ways if chosen.get(name)}
        if not self.shares:
            raise ValueError(f"modes: at least one share must be more than 0, got {dict(shares)}")
        self.stride = Placement(1, stride).stride

    def probabilities(self, frames: int) -> dict[str, float]:
        """The probability of each way for clips of `frames`; text alone if none suits them."""
        placement = Placement(frames, self.stride)
        suit = {name: share for name, share in self.shares.items() if ways[name].suits(placement)}
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
        """The masks of clips of `shape`, (f, h, w), on the CPU: true where a pixel is given.

        A mask depends on (seed, position) alone, not on the batch. An axis has size 1 if no mask
        varies along it.
        """
        frames, height, width = shape
        placement = Placement(frames, self.stride)
        masks = {}
        names = self.names(frames, seed=seed, positions=positions)
        for row, (name, position) in enumerate(zip(names, positions, strict=True)):
            draw = ways[name].draw
            if draw is not None and ways[name].gives_frames:
                rng = keyed.rng(seed, position, f"mode/{name}")
                masks[row] = draw(placement, (height, width), rng)
        sides = np.broadcast_shapes((1, 1, 1), *(mask.shape for mask in masks.values()))
        drawn = np.zeros((len(names), 1, *sides), dtype=np.bool_)
        for row, mask in masks.items():
            drawn[row, 0] = mask
        return torch.from_numpy(drawn)

    def draw(self, clip: Clip, *, seed: int, positions: Sequence[int]) -> Given:
        """The given frames of each clip; one copy moves all masks to the clips' device."""
        mask = sent(self.mask(clip.shape[2:], seed=seed, positions=positions), clip.device)
        frames = clip.masked_fill(~mask, 0.0)
        return Given(frames, mask.to(clip.dtype).expand(-1, -1, *clip.shape[2:]))
