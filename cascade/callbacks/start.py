"""Checks before the first step: clips survive a round trip, every condition has an effect."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytorch_lightning as pl
import torch
from jaxtyping import Float
from torch import Tensor

from cascade import keyed
from cascade.callbacks.eval_mode import eval_mode, first
from cascade.callbacks.verdict import NotLearningError
from cascade.parallel.ranks import gather
from cascade.parallel.shards import local
from cascade.stage import TrainableStage, trainable
from cascade.trainer import datamodule
from cascade.video import to_uint8

#: The smallest relative change of an output that is not a rounding error.
MIN_CHANGE = 1e-5
#: PSNR in dB of the round trip of a clip through no codec.
EXACT_PSNR = 58.0


class Start(pl.Callback):
    """Checks the first clips of a run once, and ends it with a list of all faults.

    Zero-initialised layers hide every condition. They get small random values during the checks and
    are reset to zero afterwards, in place and on every rank; all ranks make the same number of
    forward passes.

    Args:
        clips: how many clips of the first batch are checked.
        codec_psnr: the least PSNR in dB of a clip's round trip through the codec.
    """

    def __init__(self, *, clips: int = 2, codec_psnr: float = 20.0) -> None:
        self.clips, self.codec_psnr = clips, codec_psnr

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Refuse an empty plan: the run would end successfully without training."""
        pool = getattr(datamodule(trainer), "pool", None)
        if pool is not None and not len(pool.rows):
            raise NotLearningError(
                f"stage {pl_module.name}: the plan has no batch: all samples were dropped; "
                "`make plan` says why"
            )

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Run all checks before the first step of the run.

        Raises:
            NotLearningError: on every rank, with the faults found on any rank.
        """
        if trainer.global_step or batch_idx:
            return
        few = first(batch, self.clips)
        with eval_mode(trainer, pl_module):
            stage = trainable(pl_module)
            found = [*check_round_trip(stage, few, self.codec_psnr)]
            with zero_weights_randomised(pl_module):
                found += check_conditions(stage, few)
        every = dict.fromkeys(line for part in gather(found) for line in part)
        if every:
            lines = "\n  - ".join(every)
            raise NotLearningError(
                f"stage {pl_module.name} failed the checks before the first step:\n  - {lines}"
            )


def check_round_trip(
    stage: TrainableStage, batch: Mapping[str, Any], codec_psnr: float
) -> Iterator[str]:
    """Faults in the normalisation, the codec and the low-resolution video, as messages."""
    video = batch["video"]
    x = stage.clip(video)
    low, high = x.aminmax()
    if low < -1.001 or high > 1.001:
        yield f"normalisation: pixels must lie in [-1, 1], got {low:.3g} to {high:.3g}"
    off = (to_uint8(x)[:, :, : video.shape[2]].int() - video.int()).abs().max()
    if off > 0:
        yield (
            "normalisation: a round trip to [-1, 1] and back must keep all pixels, but changes one "
            f"by {off} of 255"
        )
    latents = stage.codec.encode(x)
    back = stage.codec.decode(latents)
    if back.shape != x.shape:
        yield f"codec: a clip of shape {tuple(x.shape)} is decoded as {tuple(back.shape)}"
    else:
        mse = float((back - x).square().mean())
        psnr, wanted = (
            10 * math.log10(4 / max(mse, 1e-7)),
            EXACT_PSNR if latents is x else codec_psnr,
        )
        if psnr < wanted:
            yield f"codec: a clip's round trip has {psnr:.1f} dB, but needs {wanted:.1f} dB"
    if latents is not x and not 0.2 < (std := float(latents.std())) < 5:
        yield (
            "codec: the standard deviation of latents must be about 1 (0.2 to 5), as noise has, "
            f"got {std:.3g}"
        )
    small = stage.kind.reduce(x)
    if small is not None and x.std() > 0.02:
        like = correlation(stage.kind.expand(small), x)
        if like < 0.05:
            yield f"low: must resemble the clip it was made from, but the correlation is {like:.3f}"


def correlation(one: Float[Tensor, "b 3 f h w"], other: Float[Tensor, "b 3 f h w"]) -> float:
    """The pixel correlation of two videos, in the frame where it is highest."""
    frames = [v.transpose(1, 2).flatten(2).float() for v in (one, other)]
    a, b = (f - f.mean(-1, keepdim=True) for f in frames)
    scale = (a.square().sum(-1) * b.square().sum(-1)).sqrt().clamp(min=1e-12)
    return float(((a * b).sum(-1) / scale).max())


def check_conditions(stage: TrainableStage, batch: Mapping[str, Any]) -> Iterator[str]:
    """Conditions without an effect on the loss or on the network's output, as messages."""
    with without_dropout(stage):
        yield from _reaches_the_loss(stage, dict(batch))
        noised = stage.noise(dict(batch), purpose="start")
    cond, z = noised.condition, noised.z
    out = stage.predict(z, noised.logsnr, cond)
    if not out.isfinite().all():
        yield "the network's output is not finite"
        return
    x, text = noised.example.x, cond.text
    # If frames are given, remove them all; if none is, give the first.
    mask, any_given = torch.zeros_like(cond.mask), bool(cond.mask.any())
    if not any_given:
        mask[:, :, :1] = 1
    other = replace(cond, given=torch.zeros_like(x) if any_given else x * mask[:, :1], mask=mask)
    logsnr = noised.logsnr
    turned = text._replace(tokens=-text.tokens.flip(-1))  # other text of the same length
    changed = {
        "z": (-z, logsnr, cond),
        "log-SNR": (z, logsnr + 2, cond),
        "text": (z, logsnr, replace(cond, text=turned)),
    }
    if any_given or x.shape[2] > 1:
        changed["given"] = (z, logsnr, other)
    if cond.low is not None:
        changed["low"] = (z, logsnr, replace(cond, low=-cond.low))
    for place, name in enumerate(stage.kind.scalars):
        values = cond.scalars.clone()
        values[:, place] += 0.5
        changed[name] = (z, logsnr, replace(cond, scalars=values))
    for name, arguments in changed.items():
        change = float((stage.predict(*arguments) - out).norm() / out.norm().clamp(min=1e-12))
        if not change > MIN_CHANGE:
            yield f"{name}: has no effect on the network's output (relative change {change:.1g})"


def _reaches_the_loss(stage: TrainableStage, batch: dict[str, Any]) -> Iterator[str]:
    captions = list(batch["caption"])
    captioned = any(any(part) for part in gather(captions))
    rolled = [*captions[-1:], *captions[:-1]]
    stored = batch.get("text") or [None] * len(captions)
    others = {"caption": rolled, "text": [*stored[-1:], *stored[:-1]]}
    if all(a == b for a, b in zip(captions, rolled, strict=True)):
        others = {"caption": [""] * len(captions), "text": [None] * len(captions)}
    loss = stage.losses(batch, purpose="start").loss
    texts = stage.losses({**batch, **others}, purpose="start").loss
    if not loss.isfinite().all():
        keys = ", ".join(batch["key"])
        yield f"the loss is not finite before the first step: {loss.tolist()} of samples {keys}"
    elif not captioned:
        yield "text: the first clips have empty captions, on all ranks"
    elif any(captions) and not _differ(loss, texts):
        yield f"text: has no effect on the loss: it is the same for {captions[0]!r} and another"
    for name in ("fps", "zoom"):
        if name in stage.kind.scalars:
            other = stage.losses({**batch, name: batch[name] * 2}, purpose="start").loss
            if not _differ(loss, other):
                yield f"{name}: has no effect on the loss: it is the same for twice the value"


def _differ(one: Tensor, other: Tensor) -> bool:
    return bool(((one - other).abs() > MIN_CHANGE * one.abs()).any())


@contextmanager
def without_dropout(stage: TrainableStage) -> Iterator[None]:
    """Inside, no caption is dropped."""
    recipe = stage.recipe
    stage.recipe = replace(recipe, text_dropout=0.0)
    try:
        yield
    finally:
        stage.recipe = recipe


@contextmanager
def zero_weights_randomised(stage: torch.nn.Module) -> Iterator[None]:
    """Inside, weights that are all zero have small random values; each rank sets its own shard."""
    zero = []
    for name, parameter in stage.named_parameters():
        own = local(parameter.data)
        if own.numel() and not own.any():
            generator = keyed.generator(0, 0, f"awake/{name}", own.device)
            own.normal_(std=0.05, generator=generator)
            zero.append(own)
    try:
        yield
    finally:
        for own in zero:
            own.zero_()
