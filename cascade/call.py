"""The arguments and the result of one call of a cascade."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypedDict

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cascade.conditioning import Given
from cascade.diffusion.sampler import Step
from cascade.grid import Grid
from cascade.request import Windows
from cascade.text.encoder import TextFeatures
from cascade.video import Fit, to_uint8

OutputType = Literal["pt", "np", "uint8"]


class CascadeRequest(TypedDict, total=False):
    """The arguments of a call of a cascade besides the prompt and the negative prompt.

    Sizes are of the final video, that of the last stage of the call.
    """

    prompt_embeds: TextFeatures | None
    """Encoded prompts instead of `prompt`, for stages that share an encoder."""
    negative_prompt_embeds: TextFeatures | None
    """Encoded negative prompts, one per video."""
    timeline: Sequence[tuple[float, str]]
    """Further prompts of all videos: each replaces the one before from its time on, in seconds."""
    num_inference_steps: int | Sequence[int] | None
    """One number, or one per stage; the bundle's by default."""
    guidance_scale: float | Sequence[float] | None
    """One number, or one per stage; the bundle's by default."""
    generator: torch.Generator | Sequence[torch.Generator] | None
    """One for all videos, or one per video. A single one draws the videos' seeds in order, so video
    i is the same in a batch of any size."""
    num_frames: int | None
    """Frames; those of the stages' targets by default. 1 is a picture: the first frame of the
    shortest video that the stages can generate."""
    seconds: float | None
    """The duration instead of `num_frames`; the nearest that the stages can generate."""
    fps: float | None
    """Frames per second of the final video; those of the last stage's target by default."""
    height: int | None
    """Height in pixels, likewise."""
    width: int | None
    """Width in pixels, likewise."""
    zoom: float
    """Magnification, if the base reads it; 1 by default."""
    low_logsnr: float | Sequence[float] | None
    """Log-SNR of the noise on the previous stage's output (nats), one number or one per stage; the
    bundle's by default."""
    stages: Sequence[str] | None
    """The names of consecutive stages to run; all by default."""
    num_videos_per_prompt: int
    """Videos of each prompt, one after another; 1 by default."""
    image: Any
    """The first frame. `image`, `last_image`, `video`, `mask` and those of `connect` are paths, or
    in memory (`cascade.video.as_media` says of which types); all videos of the call have the same.
    A video in memory has the frame rate of the new video. The combinations that are taken are those
    of `cascade.conditioning.ways`."""
    last_image: Any
    """The last frame."""
    video: Any
    """A video to extend, or which `mask`, `indices` or `strength` change. If the first stage of the
    call is not a base, it begins with this video instead."""
    extend: Literal["forward", "backward"] | None
    """Whether the new video continues `video` or leads to it; forward by default."""
    mask: Any
    """A picture of the aspect ratio of `video`: white is kept, black is regenerated."""
    indices: Sequence[int] | None
    """The frames of `video` that are given; those between them are generated."""
    connect: Sequence[Any] | None
    """Two videos: the new one leads from the end of one to the start of the other."""
    strength: float | None
    """How much of `video` (or of `start`) is regenerated: the diffusion time in [0, 1] to which it
    is noised; 0 keeps all of it, 1 nothing."""
    share: float
    """How much of the new video the frames of `video` or `connect` fill; 0.5 by default."""
    fit: Fit
    """Sources of another aspect ratio: "crop" (default) or "pad"; see `conditioning.prompt`."""
    low: Float[Tensor, "b 3 f2 h2 w2"] | None
    """A video of each prompt to begin with, in [-1, 1], if the first stage is not a base."""
    given: Given | None
    """Given frames and regions of each video, instead of the sources above, on the last stage's
    grid; videos are cut at `given.end`."""
    start: Float[Tensor, "b 3 f h w"] | None
    """A video of each prompt to restyle, on the last stage's grid: every stage starts from them,
    resampled to its grid and noised (SDEdit)."""
    loop: bool
    """Whether the last frame is followed by the first, at every stage."""
    windows: Windows | Sequence[Windows] | None
    """The parts in which each stage is sampled; whole videos by default."""
    done: Mapping[str, Float[Tensor, "b 3 f2 h2 w2"]]
    """The first frames of a stage's output, by stage name, from an earlier call that was stopped;
    they are not generated again."""
    callback_on_step_end: Callable[[Any, int, float, dict[str, Any]], Any] | None
    """Called after each x̂ of each window (Heun's steps have two x̂) with the cascade, the step's
    index, its diffusion time and {"stage": name, "step": Step, "x": x̂}, where x̂ is the network's,
    before given frames are put back. If it sets `interrupt` of the cascade to True, the call ends
    with `CallInterruptedError`."""
    on_frames: Callable[[str, int, Tensor], None] | None
    """Called with the stage's name, the number of the first frame and the frames (in [-1, 1], b c f
    h w), as soon as they are finished."""


class CallInterruptedError(RuntimeError):
    """A callback has interrupted the call.

    `finished` holds the frames that stages have finished, by stage name, of the videos generated at
    once; a call that generates them all at once continues with `done=finished`. It is empty for a
    stream, which has handed on its frames.
    """

    def __init__(self, stage: str, step: Step) -> None:
        super().__init__(
            f"stage {stage}: interrupted by callback_on_step_end after step {step.index + 1} of "
            f"{step.count}; to continue, call again with done=error.finished"
        )
        self.finished: dict[str, Tensor] = {}


@dataclass(frozen=True)
class CascadeOutput:
    """The videos, and the output of each stage that ran (in [-1, 1], `b c f h w`, by name)."""

    videos: Any
    grid: Grid
    stages: Mapping[str, Float[Tensor, "b c f h w"]] = field(repr=False)


def draw_seeds(
    generator: torch.Generator | Sequence[torch.Generator] | None, count: int
) -> list[int]:
    """One seed per video, drawn from its generator."""
    if isinstance(generator, Sequence):
        if len(generator) != count:
            raise ValueError(f"{count} prompts, {len(generator)} generators; give one or {count}")
        each = list(generator)
    else:
        if generator is None:
            generator = torch.Generator()
            generator.seed()
        each = [generator] * count
    return [
        int(torch.randint(2**62, (1,), generator=one, device=one.device).item()) for one in each
    ]


def as_type(videos: Float[Tensor, "b c f h w"], output_type: OutputType) -> Any:
    """Videos as the call's `output_type`."""
    if output_type == "pt":
        return videos
    channels_last = videos.permute(0, 2, 3, 4, 1)
    if output_type == "np":
        return np.asarray((channels_last / 2 + 0.5).clamp(0, 1))
    return to_uint8(channels_last)
