"""The denoising loss: examples noised at a drawn log-SNR, and the weighted error of a prediction.

The objective `denoise` minimises it. It also measures stages of any objective: the worth of a
condition is the increase of this loss without it, with the same clips, noise, log-SNR and counted
frames.
"""

from dataclasses import replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from cascade import keyed
from cascade.conditioning import ways
from cascade.diffusion.gaussian import diffuse, per_frame, target
from cascade.diffusion.loss import denoising_loss
from cascade.diffusion.process import Diffusion
from cascade.diffusion.schedule import Schedule
from cascade.stage import Condition, Example, Noised


def at_level(
    x: Float[Tensor, "b c f h w"],
    eps: Float[Tensor, "b c f h w"],
    logsnr: Float[Tensor, " b"],
    condition: Condition,
    schedule: Schedule,
) -> tuple[Float[Tensor, "b c f h w"], Float[Tensor, "b f"]]:
    """Noisy z and its log-SNR per frame; fully given frames stay clean, at the highest log-SNR."""
    levels = frame_levels(logsnr, condition, schedule)
    alpha, sigma = per_frame(schedule.alpha(levels)), per_frame(schedule.sigma(levels))
    return hold_given(diffuse(x, eps, alpha, sigma), condition), levels


def frame_levels(
    logsnr: Float[Tensor, " b"], condition: Condition, schedule: Schedule
) -> Float[Tensor, "b f"]:
    """The log-SNR of each frame: the highest for fully given frames, else the sample's."""
    clean = torch.full_like(logsnr, schedule.logsnr_max)
    return torch.where(condition.frames, clean[:, None], logsnr[:, None])


def hold_given(z: Float[Tensor, "b c f h w"], condition: Condition) -> Float[Tensor, "b c f h w"]:
    """`z` with its fully given frames replaced by the given values."""
    return torch.where(per_frame(condition.frames), condition.given, z)


def noised(example: Example, diffusion: Diffusion, *, seed: int, purpose: str) -> Noised:
    """An example with a log-SNR and noise that are keyed by its positions."""
    x, positions = example.x, example.positions
    u = keyed.uniforms(seed, positions, f"{purpose}/time", x.device)
    eps = keyed.normals(seed, positions, f"{purpose}/eps", x.shape[1:], x.device)
    return noised_at(example, diffusion, logsnr=diffusion.logsnr(u), eps=eps)


def noised_at(
    example: Example,
    diffusion: Diffusion,
    *,
    logsnr: Float[Tensor, " b"],
    eps: Float[Tensor, "b c f h w"],
) -> Noised:
    """An example with noise `eps` at `logsnr`, and its target."""
    schedule = diffusion.schedule
    z, levels = at_level(example.x, eps, logsnr, example.condition, schedule)
    alpha, sigma = per_frame(schedule.alpha(levels)), per_frame(schedule.sigma(levels))
    return Noised(
        example=example,
        eps=eps,
        z=z,
        logsnr=levels,
        target=target(diffusion.target, example.x, eps, alpha, sigma),
        drawn=logsnr,
        counted=~example.condition.frames,
    )


def weighted(
    out: Float[Tensor, "b c f h w"], noised: Noised, diffusion: Diffusion
) -> Float[Tensor, " b"]:
    """The weighted loss of each sample, from the prediction `out`."""
    schedule, logsnr = diffusion.schedule, noised.logsnr
    return denoising_loss(
        diffusion.target,
        out,
        noised.target,
        logsnr,
        per_frame(schedule.alpha(logsnr)),
        per_frame(schedule.sigma(logsnr)),
        diffusion.weight,
        noised.counted,
    )


def with_condition(noised: Noised, condition: Condition, schedule: Schedule) -> Noised:
    """The same clips, noise and counted frames under another condition."""
    z, logsnr = at_level(noised.example.x, noised.eps, noised.drawn, condition, schedule)
    return replace(noised, example=replace(noised.example, condition=condition), z=z, logsnr=logsnr)


def swapped(
    noised: Noised, other: Noised, name: str, scalars: tuple[str, ...]
) -> tuple[Condition, Bool[Tensor, " b"]]:
    """The condition with `name` taken from `other`, and the samples for which it differs.

    Given frames are removed instead, because another clip's frames would contradict z. With `low`,
    its noise level and its baseline are taken too.
    """
    cond, others = noised.condition, other.condition
    values = cond.scalars.clone()
    differs = torch.ones(len(values), dtype=torch.bool, device=values.device)
    if name == "text":
        pairs = zip(noised.example.captions, other.example.captions, strict=True)
        differs = torch.tensor([one not in ("", two) for one, two in pairs], device=values.device)
        return replace(cond, text=others.text), differs
    if name == "given":
        differs = torch.tensor(
            [ways[way].gives_frames for way in noised.example.ways], device=values.device
        )
        return replace(
            cond, given=torch.zeros_like(cond.given), mask=torch.zeros_like(cond.mask)
        ), differs
    if name == "low":
        if "augment" in scalars:
            level = scalars.index("augment")
            values[:, level] = others.scalars[:, level]
        return replace(cond, low=others.low, scalars=values, baseline=others.baseline), differs
    place = scalars.index(name)
    values[:, place] = others.scalars[:, place]
    return replace(cond, scalars=values), values[:, place] != cond.scalars[:, place]
