"""Held-out clips of the world of shapes, prompted in every way and sampled, for `ways.py`.

What is given of a clip is read as a user's files are, so that the clip is one answer to its prompt.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cascade import conditioning
from cascade.conditioning import Given, Placement, to_grid
from cascade.eval.fidelity import psnr
from cascade.grid import Grid
from cascade.pipeline import Cascade
from cascade.video import to_float
from data.worlds.attributes import COLOURS, HELD_OUT, Attributes
from data.worlds.see import find, find_ground, to_levels
from data.worlds.shapes import heldout_prompts
from data.worlds.truth import shapes_truth


@dataclass(frozen=True, kw_only=True)
class Cases:
    """Held-out prompts, and the clips that the world renders for them on the last stage's grid."""

    prompts: list[str]
    attributes: list[Attributes]
    clips: Tensor
    grid: Grid
    stride: int
    """Frames of the last stage per frame of the base."""

    @classmethod
    def of(cls, cascade: Cascade, count: int) -> "Cases":
        grids = cascade.grids()
        every = heldout_prompts(len(HELD_OUT))
        spread = [every[i * len(every) // count] for i in range(count)]
        prompts, attributes = zip(*spread, strict=True)
        clips = [shapes_truth(words, grids[-1], i) for i, words in enumerate(attributes)]
        return cls(
            prompts=list(prompts),
            attributes=list(attributes),
            clips=to_float(torch.stack(clips)),
            grid=grids[-1],
            stride=grids[-1].frames // grids[0].frames,
        )

    def given(self, way: str) -> Given:
        """What a way gives of every clip, read as the product reads a user's sources."""
        each = [
            conditioning.prompt(
                self.grid, stride=self.stride, way=way, **sources(way, clip, self.stride)
            ).given
            for clip in self.clips
        ]
        frames, masks = (torch.cat([getattr(one, n) for one in each]) for n in ("frames", "mask"))
        return Given(frames, masks, end=each[0].end)

    def centres(self, videos: Tensor) -> Tensor:
        """The object's centre (x, y) in every frame, in pixels, (b, f, 2); NaN where unseen."""
        pairs = zip(videos, self.attributes, strict=True)
        return torch.stack([self._centre(*pair) for pair in pairs])

    def _centre(self, video: Tensor, words: Attributes) -> Tensor:
        levels = to_levels(video)
        ground = find_ground(levels)
        seen = find(levels, ground, (np.array(COLOURS[words.colour]) - ground)[None])
        track = np.stack([seen.x, seen.y], axis=1) * min(video.shape[-2:])
        track[~seen.present] = np.nan
        return torch.from_numpy(track)


def sources(way: str, clip: Tensor, stride: int) -> dict[str, Any]:
    """What a user gives in a way, taken from a clip (3 f h w)."""
    _, frames, height, width = clip.shape
    half, part = frames // 2, frames // 4
    last = Placement(frames, stride).closing(1).start
    mask = np.ones((height, width), dtype=np.bool_)
    mask[height // 4 : -height // 4, width // 4 : -width // 4] = False  # the middle is generated
    found: dict[str, dict[str, Any]] = {
        "image": {"image": clip[:, 0]},
        "first_last": {"image": clip[:, 0], "last_image": clip[:, last]},
        "extend_forward": {"video": clip[:, :half]},
        "extend_backward": {"video": clip[:, half:]},
        "fill_in": {"video": clip, "indices": [0, 5, 10, 15]},
        "loop": {"video": clip},
        "connect": {"connect": [clip[:, :part], clip[:, -part:]]},
        "region": {"video": clip, "mask": mask},
    }
    return found[way]


@dataclass(frozen=True, kw_only=True)
class Made:
    """Videos of every stage, and the network's own last x̂ of each."""

    stages: Mapping[str, Tensor]
    own: dict[str, Tensor]


def make(cascade: Cascade, prompts: Sequence[str], **request: Any) -> Made:
    """Video i has seed i, whatever else is asked."""
    own: dict[str, Tensor] = {}
    out = cascade(
        prompts,
        generator=[torch.Generator().manual_seed(i) for i in range(len(prompts))],
        callback_on_step_end=lambda _, _index, _t, at: own.update({at["stage"]: at["x"]}),
        **request,
    )
    return Made(stages=out.stages, own=own)


@dataclass(kw_only=True)
class Measured:
    """A cascade, its cases, and what text alone makes of them."""

    cascade: Cascade
    cases: Cases
    _text: Made | None = field(default=None, init=False)

    @property
    def text(self) -> Made:
        """The videos of text alone, made once."""
        if self._text is None:
            self._text = make(self.cascade, self.cases.prompts)
        return self._text

    def without(self, made: Made) -> dict[str, Tensor]:
        """Each stage's own last x̂ with nothing given to it: same noise, prompt and `low`."""
        names = [stage.name for stage in self.cascade.stages]
        found = {names[0]: self.text.own[names[0]]}
        for before, name in itertools.pairwise(names):
            low = made.stages[before]
            found |= make(self.cascade, self.cases.prompts, stages=[name], low=low).own
        return found

    def on(self, given: Given, stage: str) -> Given:
        """Given frames on a stage's grid."""
        grids = self.cascade.grids()
        (grid,) = (g for g, s in zip(grids, self.cascade.stages, strict=True) if s.name == stage)
        return to_grid(given, grid, torch.device("cpu"))

    def clips_on(self, stage: str) -> Tensor:
        """The clips on a stage's grid."""
        clips = self.cases.clips
        return self.on(Given(clips, torch.ones_like(clips[:, :1])), stage).frames


def psnr_at(x: Tensor, wanted: Tensor, mask: Tensor) -> Tensor:
    """PSNR (dB) of each video's pixels in [-1, 1] under a mask of equally many in each."""
    kept = mask.expand_as(x) > 0
    rows = [
        torch.stack([video[where] for video, where in zip(videos, kept, strict=True)])
        for videos in (x.clamp(-1, 1), wanted)
    ]
    one, other = (row[:, :, None, None, None] for row in rows)
    return psnr(one, other)
