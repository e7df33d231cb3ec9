"""Clips on their way to the network, told what they are told; and told something else, to compare.

What a condition is worth is the loss without it over the loss with it, all else the same: the same
clips, noise, log-SNR and frames that count.
"""

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from cascade.conditioning import Given
from cascade.diffusion.gaussian import diffuse, per_frame
from cascade.diffusion.schedule import Schedule
from cascade.text.encoder import TextFeatures
from stages.condition import Condition


class Losses(NamedTuple):
    """The weighted loss of each sample, and what it is to be read by."""

    loss: Float[Tensor, " b"]
    logsnr: Float[Tensor, " b"]
    """That it was drawn at."""
    zero: Float[Tensor, " b"]
    """The loss of a network that answers zero."""
    ways: list[str]
    """The way to prompt of each."""
    shapes: list[tuple[int, int, int]]
    """Frames, height and width of each, as the loader gave it."""


@dataclass(frozen=True, kw_only=True)
class Noised:
    """Clips `x` with noise `eps` at the drawn log-SNR, and what the network should say of them."""

    x: Float[Tensor, "b c f h w"]
    eps: Float[Tensor, "b c f h w"]
    z: Float[Tensor, "b c f h w"]
    logsnr: Float[Tensor, "b f"]
    condition: Condition
    target: Float[Tensor, "b c f h w"]
    drawn: Float[Tensor, " b"]
    counted: Bool[Tensor, "b f"]
    """The frames that carry the loss."""
    captions: list[str]
    """As they are told: some are dropped."""
    ways: list[str]

    def told(self, condition: Condition, schedule: Schedule) -> "Noised":
        """The same clips and noise under another condition; the same frames carry the loss."""
        z, logsnr = at_level(self.x, self.eps, self.drawn, condition, schedule)
        return replace(self, z=z, logsnr=logsnr, condition=condition)

    def rolled(self) -> "Noised":
        """What each sample would take from the one before it: captions and conditions."""
        cond = self.condition
        return replace(
            self,
            condition=Condition(
                low=None if cond.low is None else cond.low.roll(1, 0),
                given=Given(cond.given.frames.roll(1, 0), cond.given.mask.roll(1, 0)),
                text=TextFeatures(cond.text.tokens.roll(1, 0), cond.text.mask.roll(1, 0)),
                scalars=cond.scalars.roll(1, 0),
            ),
            captions=[*self.captions[-1:], *self.captions[:-1]],
        )


def at_level(
    x: Float[Tensor, "b c f h w"],
    eps: Float[Tensor, "b c f h w"],
    drawn: Float[Tensor, " b"],
    condition: Condition,
    schedule: Schedule,
) -> tuple[Float[Tensor, "b c f h w"], Float[Tensor, "b f"]]:
    """Noisy z and its log-SNR per frame; frames given whole are clean, and told to be."""
    clean = torch.full_like(drawn, schedule.logsnr_max)
    logsnr = torch.where(condition.frames, clean[:, None], drawn[:, None])
    alpha, sigma = per_frame(schedule.alpha(logsnr)), per_frame(schedule.sigma(logsnr))
    z = torch.where(per_frame(condition.frames), x, diffuse(x, eps, alpha, sigma))
    return z, logsnr


def swapped(
    noised: Noised, other: Noised, name: str, scalars: tuple[str, ...]
) -> tuple[Condition, Bool[Tensor, " b"]]:
    """The condition with `name` taken from `other`, and for which samples that is something else.

    `given` is left out instead, since other frames would be lies that are seen at once. With `low`
    comes the level of its noise.
    """
    cond, others = noised.condition, other.condition
    told = cond.scalars.clone()
    differs: Any = torch.ones(len(told), dtype=torch.bool, device=told.device)
    if name == "text":
        pairs = zip(noised.captions, other.captions, strict=True)
        differs = torch.tensor([one not in ("", two) for one, two in pairs], device=told.device)
        return replace(cond, text=others.text), differs
    if name == "given":
        differs = torch.tensor([way != "text" for way in noised.ways], device=told.device)
        given = Given(torch.zeros_like(cond.given.frames), torch.zeros_like(cond.given.mask))
        return replace(cond, given=given), differs
    if name == "low":
        if "augment" in scalars:
            level = scalars.index("augment")
            told[:, level] = others.scalars[:, level]
        return replace(cond, low=others.low, scalars=told), differs
    place = scalars.index(name)
    told[:, place] = others.scalars[:, place]
    return replace(cond, scalars=told), told[:, place] != cond.scalars[:, place]
