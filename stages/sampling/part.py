"""Sampling a part of a video: the denoiser, and what a part starts from."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from cascade.diffusion.gaussian import per_frame, to_x
from cascade.diffusion.guidance import Guidance
from cascade.diffusion.process import Diffusion
from cascade.diffusion.sampler import Step, levels
from cascade.request import SampleRequest
from cascade.stage import Condition, Stage
from cascade.text.encoder import TextFeatures
from stages.noised import at_level, frame_levels, hold_given
from stages.sampling.inputs import VideoInputs
from stages.sampling.wave import Part

#: A function of (z, log-SNR per frame, condition, step) that returns the network's prediction.
Predict = Callable[[Tensor, Tensor, Condition, Step], Tensor]


@dataclass(frozen=True, kw_only=True)
class Window:
    """What the denoiser knows of a part: its condition, on the frames that the network reads."""

    condition: Condition
    own: slice
    """The part's own frames among those."""
    texts: list[tuple[slice, TextFeatures]]
    """The captions of the part's own frames."""
    free: Bool[Tensor, "b 1 f h w"] | None
    """The positions of the part's own frames that are not given; None if none is given."""


@dataclass(frozen=True, kw_only=True)
class Denoiser:
    """x̂ with guidance of a part's own frames, as a function of z and the sampler's step.

    Fully given frames stay clean in z, at the highest log-SNR, as in training.
    """

    predict: Predict
    diffusion: Diffusion
    without: TextFeatures
    guidance: Guidance

    def __call__(
        self, z: Float[Tensor, "b c f h w"], step: Step, window: Window
    ) -> Float[Tensor, "b c f2 h w"]:
        """x̂ of the part's own frames, for noisy `z` of the frames that the network reads.

        Given frames are not put back.
        """
        schedule, cond, own = self.diffusion.schedule, window.condition, window.own
        z = hold_given(z, cond)
        level = torch.full((len(z),), step.logsnr, device=z.device)
        logsnr = frame_levels(level, cond, schedule)
        alpha, sigma = per_frame(schedule.alpha(logsnr)), per_frame(schedule.sigma(logsnr))

        def x_hat(text: TextFeatures) -> Tensor:
            out = self.predict(z, logsnr, replace(cond, text=text), step).float()
            return to_x(self.diffusion.target, out, z, alpha, sigma)[:, :, own]

        # `make prove` compares the last call of a step with training, so that one has the caption.
        other = x_hat(self.without) if self.guidance.needs_uncond(step) else None
        x = [x_hat(text)[:, :, frames] for frames, text in window.texts]
        return self.guidance(
            x[0] if len(x) == 1 else torch.cat(x, dim=2),
            other,
            z=z[:, :, own],
            alpha=alpha[:, :, own],
            sigma=sigma[:, :, own],
            step=step,
            free=window.free,
        )


class Run:
    """One call of a stage's sampler.

    Nothing is recorded for a backward pass. (Inference mode would break the weights that a sharding
    strategy gathers.)
    """

    def __init__(
        self,
        *,
        stage: Stage,
        inputs: VideoInputs,
        request: SampleRequest,
        guidance: Guidance,
        predict: Predict,
    ) -> None:
        self.stage, self.inputs, self._request = stage, inputs, request
        self._denoiser = Denoiser(
            predict=predict, diffusion=stage.diffusion, without=inputs.without, guidance=guidance
        )

    @torch.no_grad()
    def denoise(
        self, z: Float[Tensor, "b c f h w"], step: Step, window: Window
    ) -> Float[Tensor, "b c f2 h w"]:
        """x̂ of a part, reported, then with its fully given frames as they were given."""
        x = self._denoiser(z, step, window)
        if (on_step := self._request.get("on_step")) is not None:
            on_step(step, x)
        return hold_given(x, window.condition.part(window.own))

    @torch.no_grad()
    def part(
        self, read: range, own: range, *, known: Float[Tensor, "b c k h w"] | None = None
    ) -> Part[Window]:
        """A part of frames `own` for which the network reads `read`, at its first step.

        `known` are latents of its first frames, given besides what the user gives.
        """
        inputs, sampling = self.inputs, self.stage.sampling
        condition = inputs.condition(read)
        if known is not None:
            condition.given[:, :, : known.shape[2]] = known
            condition.mask[:, :, : known.shape[2]] = 1
        inside = slice(own.start - read.start, own.stop - read.start)
        mine = condition.part(inside)
        window = Window(
            condition=condition,
            own=inside,
            texts=inputs.texts_of(own),
            free=~mine.fixed if inputs.gives or known is not None else None,
        )
        z, entry = inputs.noise("start", own), 1.0
        if (start := inputs.start(own)) is not None:
            x, entry = start
            schedule = self.stage.diffusion.schedule
            logsnr = torch.full((len(x),), levels(schedule, 1, entry)[0].step.logsnr)
            z = at_level(x, z, logsnr.to(x.device), mine, schedule)[0]
        steps = self._request.get("steps")
        walk = sampling.sampler.walk(
            z,
            schedule=self.stage.diffusion.schedule,
            steps=sampling.steps if steps is None else steps,
            start=entry,
            noise=lambda i: inputs.noise(f"step {i}", own),
        )
        return Part(walk=walk, window=window)

    def skipped(self, own: range) -> int:
        """How many pixel frames of a part lie before the first one that is wanted."""
        first = own.start * self.stage.codec.factor[0]
        return max(self._request.get("first", 0) - first, 0)

    @torch.no_grad()
    def video(self, x: Float[Tensor, "b c f h w"], own: range) -> Float[Tensor, "b 3 f2 h2 w2"]:
        """The pixels of a part, with the given ones as they were given."""
        pixels = self.stage.codec.decode(x).clamp(-1, 1).float()
        return self.inputs.given(own).paste(pixels) if self.inputs.gives else pixels
