"""The run of a checked call through the stages: each takes the frames of the one before."""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from cascade.call import CascadeRequest
from cascade.conditioning import Given, to_grid
from cascade.diffusion.sampler import Step
from cascade.grid import Grid
from cascade.prompts import Encoded
from cascade.request import SampleRequest, Windows
from cascade.stage import Stage, Video
from cascade.video import every, resize

#: Frames of a finished part that a stage hands on at once.
PART = 64


@dataclass(frozen=True, kw_only=True)
class Generation:
    """One call of a cascade."""

    stages: Sequence[Stage]
    grids: Sequence[Grid]
    total: int
    """The number of videos."""
    seeds: Sequence[int]
    texts: Encoded
    later: Sequence[tuple[float, Encoded]]
    """Prompts that replace the earlier ones from a time on, in seconds."""
    settings: Mapping[str, Sequence[Any]]
    """Steps, guidance scale and noise of `low`, one of each per stage."""
    windows: Sequence[Windows]
    end: int
    """How many frames the videos have."""
    given: Given | None
    start: tuple[Video, float] | None
    request: CascadeRequest
    on_device: Callable[[Stage], AbstractContextManager[None]]
    offload: bool
    on_step: Callable[[str, Step, Tensor], None] | None = None
    """Called with the stage's name, the step and x̂, after each x̂ of each window."""

    def frames(
        self, rows: slice, *, keep: Mapping[str, list[Tensor]] | None = None
    ) -> Iterator[Video]:
        """The last stage's frames of some of the videos; `keep` collects those of every stage."""
        low = self.request.get("low")
        parts: Iterator[Tensor] | None = None if low is None else iter([low[rows]])
        for place in range(len(self.stages)):
            parts = self._stage(place, rows, parts, keep)
        assert parts is not None
        return parts

    def _stage(
        self,
        place: int,
        rows: slice,
        low: Iterator[Tensor] | None,
        keep: Mapping[str, list[Tensor]] | None,
    ) -> Iterator[Tensor]:
        """The frames of one stage: those made in an earlier call, then new ones."""
        stage, grid = self.stages[place], self.grids[place]
        on_frames = self.request.get("on_frames")
        done = self.request.get("done", {}).get(stage.name)
        made = 0 if done is None else min(done.shape[2], grid.frames)
        for first in range(0, made, PART):
            assert done is not None
            part = done[rows, :, first : min(first + PART, made)]
            if keep is not None:
                keep[stage.name].append(part)
            yield part
        if made == grid.frames:
            return
        for part in self._sampled(place, rows, low, first=made):
            if keep is not None:
                keep[stage.name].append(part)
            if on_frames is not None:
                on_frames(stage.name, made, part)
            made += part.shape[2]
            yield part

    def _sampled(
        self, place: int, rows: slice, low: Iterator[Tensor] | None, *, first: int
    ) -> Iterator[Tensor]:
        """The frames that a stage generates, from frame `first` on."""
        stage = self.stages[place]
        whole = None if low is None or not self.offload else torch.cat(list(low), dim=2)
        parts = stage.stream(
            self.texts.rows(rows).texts[place],
            **self._request(place, rows, low if whole is None else whole, first=first),
        )
        while True:
            # The stage is left on its device only while it computes a part.
            with self.on_device(stage):
                part = next(parts, None)
            if part is None:
                return
            yield part.cpu()

    def _request(
        self, place: int, rows: slice, low: Iterator[Tensor] | Tensor | None, *, first: int
    ) -> SampleRequest:
        stage, grid = self.stages[place], self.grids[place]
        given, start = self.given, self.start
        request = SampleRequest(
            grid=grid,
            seeds=self.seeds[rows],
            negative=self.texts.rows(rows).negatives[place],
            later=[(second, text.rows(rows).texts[place]) for second, text in self.later],
            low=low,
            given=None
            if given is None
            else to_grid(Given(given.frames[rows], given.mask[rows]), grid, torch.device("cpu")),
            start=None if start is None else (_to_grid(start[0][rows], grid), start[1]),
            steps=self.settings["steps"][place],
            guidance_scale=self.settings["guidance_scale"][place],
            low_logsnr=self.settings["low_logsnr"][place],
            loop=self.request.get("loop", False),
            windows=self.windows[place],
            first=first,
            on_step=None if self.on_step is None else functools.partial(self.on_step, stage.name),
        )
        if "zoom" in self.request and "zoom" in stage.kind.scalars:
            request["zoom"] = self.request["zoom"]
        return request


def _to_grid(video: Video, grid: Grid) -> Float[Tensor, "b 3 f2 h2 w2"]:
    """A video on the last stage's grid, resampled to the grid of an earlier stage."""
    video = every(video, video.shape[2] // grid.frames)
    return resize(video, grid.height, grid.width)
