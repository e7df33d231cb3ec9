"""The arguments and the result of one call of a cascade."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypedDict, get_args

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cascade.conditioning import Given
from cascade.diffusion.sampler import Step
from cascade.grid import Grid
from cascade.request import Windows
from cascade.sources import Sources
from cascade.stage import Stage
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
    """Frames; those of the stages' targets by default."""
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
    index, its diffusion time and {"stage": name, "step": Step}. If it sets `interrupt` of the
    cascade to True, the call ends with `InterruptedCall`."""
    on_frames: Callable[[str, int, Tensor], None] | None
    """Called with the stage's name, the number of the first frame and the frames (in [-1, 1], b c f
    h w), as soon as they are finished."""


class InterruptedCall(RuntimeError):  # noqa: N818 - as KeyboardInterrupt, it is no error
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


def check_output(output_type: Any) -> None:
    """Check a call's `output_type` before the videos are generated.

    Raises:
        ValueError: it is unknown.
    """
    known = get_args(OutputType)
    if output_type not in known:
        raise ValueError(f"output_type must be one of {', '.join(known)}, got {output_type!r}")


def check_start(
    start: Tensor | None, strength: float | None, shape: tuple[int, ...]
) -> tuple[Tensor, float] | None:
    """The video to restyle and its strength, on the last stage's grid; None without.

    Raises:
        ValueError: one of both is missing, the video has another shape or pixels outside [-1, 1],
            or `strength` is not in [0, 1].
    """
    if start is None and strength is None:
        return None
    if start is None or strength is None:
        raise ValueError(
            "restyle: start (a video) and strength must be given together; give both or neither"
        )
    if tuple(start.shape) != shape:
        raise ValueError(
            f"restyle: the video must be on the last stage's grid, {shape}, "
            f"got {tuple(start.shape)}"
        )
    if not (start.abs() <= 1 + 1e-3).all():
        raise ValueError("restyle: pixels must be finite and in [-1, 1]")
    if not 0 <= strength <= 1:
        raise ValueError(f"restyle: strength must lie in [0, 1], got {strength}")
    return start, strength


def check_count(count: int) -> int:
    """The number of videos per prompt.

    Raises:
        ValueError: it is not a positive integer.
    """
    if type(count) is not int or count < 1:
        raise ValueError(f"num_videos_per_prompt must be an integer of at least 1, got {count!r}")
    return count


def check_sources(request: CascadeRequest) -> Sources:
    """The sources of a call.

    `strength` belongs to `start`, if that is given, and else to the sources.

    Raises:
        ValueError: there are sources besides `given`, `start` or `low`.
    """
    tensors = [name for name in ("given", "start", "low") if request.get(name) is not None]
    values = {**request, "strength": None} if "start" in tensors else request
    sources = Sources.of(values)
    if tensors and sources.named:
        raise ValueError(
            f"{', '.join(tensors)} is given besides {', '.join(sources.named)}; give either frames "
            "on the grid or the sources that they are read from"
        )
    return sources


def check_low(stage: Stage, low: Tensor | None, count: int) -> None:
    """Check the video that a call begins with.

    Raises:
        ValueError: it is missing although the first stage is not a base, or given to a base, or is
            not `count` videos in [-1, 1].
    """
    if (low is None) == stage.kind.takes_low:
        wants = (
            "needs a video (video=)" if low is None else "is a base, which takes no video (low=)"
        )
        raise ValueError(f"stage {stage.name}: is the first stage of the call and {wants}")
    if low is None:
        return
    if low.ndim != 5 or tuple(low.shape[:2]) != (count, 3):
        raise ValueError(
            f"low: must be {count} videos, ({count}, 3, frames, height, width), "
            f"got {tuple(low.shape)}"
        )
    if not (low.abs() <= 1 + 1e-3).all():
        raise ValueError("low: pixels must be finite and in [-1, 1]")


def check_timeline(
    timeline: Sequence[tuple[float, str]], duration: float
) -> Sequence[tuple[float, str]]:
    """The later prompts of a call, checked.

    Raises:
        ValueError: their times, in seconds, are not in order, or not inside the video.
    """
    before = 0.0
    for second, _ in timeline:
        if not before < second < duration:
            raise ValueError(
                f"timeline: a prompt begins at {second:g} s, but must begin after the one before "
                f"it ({before:g} s) and before the video ends ({duration:g} s)"
            )
        before = second
    return timeline


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
