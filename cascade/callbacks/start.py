"""Checks before the first step: a clip comes back, and every condition reaches the network."""

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
from cascade.callbacks.eval_mode import first, looking
from cascade.callbacks.verdict import NotLearningError
from cascade.parallel.ranks import gather
from cascade.parallel.shards import local
from cascade.stage import TrainableStage, trainable
from cascade.trainer import datamodule
from cascade.video import to_uint8

#: Relative change of an output that is no rounding.
LEAST = 1e-5
#: dB at which a clip comes back where nothing was done to it.
EXACT = 58.0


class Start(pl.Callback):
    """Looks at the first clips of a run, once, and ends it with all that is wrong.

    A network begins with layers that are zero, which hide every condition. They are given small
    random values for the look, and are zero again after it: the weights stay where they are, on
    whatever ranks, and no rank makes a forward pass that another does not make.

    Args:
        clips: of the first batch to look at.
        codec_psnr: dB that a clip must come back at from a codec.
    """

    def __init__(self, *, clips: int = 2, codec_psnr: float = 20.0) -> None:
        self.clips, self.codec_psnr = clips, codec_psnr

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """A run without a batch would end well and have learned nothing."""
        pool = getattr(datamodule(trainer), "pool", None)
        if pool is not None and not len(pool.rows):
            raise NotLearningError(
                f"stage {pl_module.name}: the plan has no batch: none of the samples is left to "
                "train on; look at what was dropped (make plan)"
            )

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """All checks, before the very first step alone.

        Raises:
            NotLearningError: on every rank, what any of them found.
        """
        if trainer.global_step or batch_idx:
            return
        few = first(batch, self.clips)
        with looking(trainer, pl_module):
            stage = trainable(pl_module)
            found = [*clip_comes_back(stage, few, self.codec_psnr)]
            with awake(pl_module):
                found += all_is_read(stage, few)
        every = dict.fromkeys(line for part in gather(found) for line in part)
        if every:
            lines = "\n  - ".join(every)
            raise NotLearningError(f"stage {pl_module.name} would not learn as it is:\n  - {lines}")


def clip_comes_back(stage: TrainableStage, batch: Mapping[str, Any], least: float) -> Iterator[str]:
    """What is wrong with normalisation, codec and `low`."""
    video = batch["video"]
    x = stage.clip(video)
    low, high = x.aminmax()
    if low < -1.001 or high > 1.001:
        yield f"normalisation: pixels must lie in [-1, 1], and go from {low:.3g} to {high:.3g}"
    off = (to_uint8(x)[:, :, : video.shape[2]].int() - video.int()).abs().max()
    if off > 0:
        yield f"normalisation: clips do not come back: a pixel is off by {off} of 255"
    latents = stage.codec.encode(x)
    back = stage.codec.decode(latents)
    if back.shape != x.shape:
        yield f"codec: a clip {tuple(x.shape)} comes back as {tuple(back.shape)}"
    else:
        mse = float((back - x).square().mean())
        came, wanted = 10 * math.log10(4 / max(mse, 1e-7)), EXACT if latents is x else least
        if came < wanted:
            yield f"codec: a clip comes back at {came:.1f} dB, wanted are {wanted:.1f}"
    if latents is not x and not 0.2 < (spread := float(latents.std())) < 5:
        yield f"codec: latents must spread by about 1 for the noise to fit, and do by {spread:.3g}"
    small = stage.kind.reduce(x)
    if small is not None and x.std() > 0.02:
        like = correlation(stage.kind.expand(small), x)
        if like < 0.05:
            yield f"low: is not like the clip that it was made of: correlation {like:.3f}"


def correlation(one: Float[Tensor, "b 3 f h w"], other: Float[Tensor, "b 3 f h w"]) -> float:
    """Of two videos' pixels, in the frame where it is highest."""
    frames = [v.transpose(1, 2).flatten(2).float() for v in (one, other)]
    a, b = (f - f.mean(-1, keepdim=True) for f in frames)
    scale = (a.square().sum(-1) * b.square().sum(-1)).sqrt().clamp(min=1e-12)
    return float(((a * b).sum(-1) / scale).max())


def all_is_read(stage: TrainableStage, batch: Mapping[str, Any]) -> Iterator[str]:
    """Which conditions change nothing: in the network's output, or on the way to its loss."""
    with without_dropout(stage):
        yield from _reaches_the_loss(stage, dict(batch))
        noised = stage.noise(dict(batch), purpose="start")
    cond, z = noised.condition, noised.z
    out = stage.predict(z, noised.logsnr, cond)
    if not out.isfinite().all():
        yield "the network's output is not finite"
        return
    x, text = noised.example.x, cond.text
    # Without given frames where there are some, with the first frame given where there is none.
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
        if not change > LEAST:
            yield f"{name}: changes nothing in the network's output (by {change:.1g} of it)"


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
        yield f"text: other captions change nothing in the loss: {captions[0]!r} or another"
    for name in ("fps", "zoom"):
        if name in stage.kind.scalars:
            other = stage.losses({**batch, name: batch[name] * 2}, purpose="start").loss
            if not _differ(loss, other):
                yield f"{name}: another changes nothing in the loss"


def _differ(one: Tensor, other: Tensor) -> bool:
    return bool(((one - other).abs() > LEAST * one.abs()).any())


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
def awake(stage: torch.nn.Module) -> Iterator[None]:
    """Inside, weights that are all zero have small random values, each rank its own part."""
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
