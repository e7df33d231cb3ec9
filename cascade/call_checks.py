"""The checks of a call of a cascade, before anything is computed."""

from collections.abc import Mapping, Sequence
from typing import Any, get_args

from torch import Tensor

from cascade.call import CascadeRequest, OutputType
from cascade.conditioning import Given
from cascade.grid import Grid
from cascade.request import Windows
from cascade.sources import Sources
from cascade.stage import Stage


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


def check_windows(
    windows: Windows | Sequence[Windows] | None, stages: Sequence[Stage]
) -> list[Windows]:
    """The windows of each stage.

    Raises:
        ValueError: there is another number of them than of stages.
    """
    if not isinstance(windows, Sequence):
        return [windows or Windows()] * len(stages)
    if len(windows) != len(stages):
        raise ValueError(
            f"windows: {len(stages)} stages, but {len(windows)} windows; give one each"
        )
    return list(windows)


def check_done(
    done: Mapping[str, Tensor], stages: Sequence[Stage], grids: Sequence[Grid], count: int
) -> None:
    """Check the frames of an earlier call.

    Raises:
        ValueError: they are of a stage that does not run, or of another number or size of videos.
    """
    known = {stage.name: grid for stage, grid in zip(stages, grids, strict=True)}
    for name, frames in done.items():
        if name not in known:
            raise ValueError(f"done: no stage {name} runs; the stages are {', '.join(known)}")
        _, *sides = known[name].shape
        if frames.ndim != 5 or [*frames.shape[:2], *frames.shape[3:]] != [count, 3, *sides]:
            raise ValueError(
                f"done: frames of stage {name} must be ({count}, 3, frames, "
                f"{', '.join(map(str, sides))}), got {tuple(frames.shape)}"
            )


def end_of(frames: int, given: Given | None, num_frames: int | None) -> int:
    """How many of the generated frames the videos have: given ones may end them; 1 is a picture."""
    cut = None if given is None else given.end
    return 1 if num_frames == 1 else frames if cut is None else cut


def check_loop(given: Given | None, num_frames: int | None) -> None:
    """Check that a loop has frames to repeat, and that given ones leave it closed.

    Raises:
        ValueError: the video has one frame, or is cut at a given last frame, so the next one is not
            the first.
    """
    if num_frames == 1:
        raise ValueError("loop: num_frames=1 is a picture; leave out loop, or set more frames")
    if given is not None and given.end is not None:
        raise ValueError(
            f"loop: the video is cut at {given.end} frames, where given frames end it, so it does "
            "not lead back to its start; leave out loop, or the frames that close the video"
        )


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
