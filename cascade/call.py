"""The arguments and the result of one call of a cascade."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cascade.grid import Grid
from cascade.video import to_uint8

OutputType = Literal["pt", "np", "uint8"]


@dataclass(frozen=True)
class CascadeOutput:
    """The videos, and the output of each stage (in [-1, 1], `b c f h w`, by stage name)."""

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
            or `strength` is not in (0, 1].
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
    if not 0 < strength <= 1:
        raise ValueError(f"restyle: strength must lie in (0, 1], got {strength}")
    return start, strength


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
