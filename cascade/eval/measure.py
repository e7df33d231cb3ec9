"""The protocol of measures: what was generated for prompts, and the scores of its videos.

A measure takes what was generated and the name of a stage, and gives every video of that stage its
scores. So a stage is compared with another, and a run with another, video by video.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Shaped
from torch import Tensor

from cascade.eval.interval import Share
from cascade.files.finite import finite
from cascade.grid import Grid

Curve = Sequence[tuple[float, float]]
"""(seconds, value)."""

RESAMPLES = 1000
"""Of the bootstrap of a mean."""


@dataclass(frozen=True, kw_only=True)
class Generated:
    """The videos of all prompts after each stage, beside the content that the prompts ask for.

    `render` makes a video that is right: (content, grid, number of the prompt) → uint8 or in
    [-1, 1]. The first `given` frames of every video, on the last stage's grid, are such a one's.
    """

    videos: Mapping[str, Shaped[Tensor, "n c _f _h _w"]]
    grids: Mapping[str, Grid]
    prompts: Sequence[str]
    contents: Sequence[Any]
    render: Callable[[Any, Grid, int], Shaped[Tensor, "c f h w"]]
    given: int = 0

    def truth(self, stage: str, number: int, *, draw: int = 0) -> Shaped[Tensor, "c f h w"]:
        """A right video for a prompt, on a stage's grid; `draw` is added to its number."""
        return self.render(self.contents[number], self.grids[stage], number + draw)

    def given_at(self, stage: str) -> int:
        """How many frames of a stage's videos are given."""
        last = list(self.grids.values())[-1]
        return -(-self.given * self.grids[stage].frames // last.frames)


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One score per video; NaN where a video has none. A share has the scores 0 and 1."""

    each: Sequence[float]
    share: bool = False
    lower_is_better: bool = False
    unit: str = ""

    @property
    def scored(self) -> list[float]:
        """The scores that there are."""
        return [score for score in self.each if not math.isnan(score)]

    @property
    def value(self) -> float:
        """The mean of the scores; NaN if there are none."""
        return float(np.mean(self.scored)) if self.scored else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """Its 95 % interval: Wilson's for a share, else the percentiles of a bootstrap.

        (Efron 1979; over the videos, with a fixed seed.)
        """
        if self.share:
            return Share(right=round(sum(self.scored)), asked=len(self.scored)).interval
        if len(self.scored) < 2:
            return -math.inf, math.inf
        scores = np.array(self.scored)
        drawn = np.random.default_rng(0).integers(len(scores), size=(RESAMPLES, len(scores)))
        low, high = np.percentile(scores[drawn].mean(1), (2.5, 97.5))
        return float(low), float(high)

    def worst(self, count: int) -> list[int]:
        """The numbers of the videos with the worst scores, the worst first."""
        sign = -1 if self.lower_is_better else 1
        scored = [n for n, score in enumerate(self.each) if not math.isnan(score)]
        return sorted(scored, key=lambda n: sign * self.each[n])[:count]

    def to_json(self) -> dict[str, Any]:
        """Value, interval, and every score."""
        low, high = self.interval
        return {
            "value": finite(self.value),
            "low": finite(low),
            "high": finite(high),
            "videos": len(self.scored),
            "share": self.share,
            "lower_is_better": self.lower_is_better,
            "unit": self.unit,
            "each": finite(self.each),
        }

    def __str__(self) -> str:
        if not self.scored:
            return "–"
        low, high = self.interval
        if self.share:
            return f"{100 * self.value:.1f} % [{100 * low:.1f}, {100 * high:.1f}]{self._of}"
        known = "" if math.isinf(low) else f" [{low:.4g}, {high:.4g}]"
        return f"{self.value:.4g}{known}{f' {self.unit}' if self.unit else ''}{self._of}"

    @property
    def _of(self) -> str:
        """How many videos have a score, if some have none."""
        return "" if len(self.scored) == len(self.each) else f" ({len(self.scored)} videos)"


@dataclass(frozen=True, kw_only=True)
class SetFigure:
    """One score of all videos together, such as a distance between sets; no interval is known."""

    value: float
    lower_is_better: bool = True
    unit: str = ""
    share: bool = field(default=False, init=False)
    each: Sequence[float] = field(default=(), init=False)

    @property
    def interval(self) -> tuple[float, float]:
        """Everything."""
        return -math.inf, math.inf

    def worst(self, count: int) -> list[int]:
        """No video has a score."""
        del count
        return []

    def to_json(self) -> dict[str, Any]:
        """The value."""
        return {"value": finite(self.value), "share": False, "unit": self.unit}

    def __str__(self) -> str:
        return f"{self.value:.4g}{f' {self.unit}' if self.unit else ''}"


@dataclass(frozen=True, kw_only=True)
class Chart:
    """Lines over the seconds of a video, and marks at some of them."""

    lines: Mapping[str, Curve]
    x_label: str = "seconds"
    y_label: str
    marks: Sequence[float] = ()
    caption: str = ""

    def to_json(self) -> dict[str, Any]:
        """All values."""
        return {
            "lines": finite(self.lines),
            "marks": [*self.marks],
        }


@dataclass(frozen=True, kw_only=True)
class Scores:
    """What a measure says of a stage's videos.

    `records` have one entry per video, for whoever wants to know why it has its scores.
    """

    figures: Mapping[str, Figure | SetFigure]
    charts: Mapping[str, Chart] = field(default_factory=dict)
    records: Sequence[Any] = ()

    def to_json(self) -> dict[str, Any]:
        """All of it."""
        return {
            "figures": {name: figure.to_json() for name, figure in self.figures.items()},
            "charts": {title: chart.to_json() for title, chart in self.charts.items()},
            "records": finite(self.records),
        }


Measure = Callable[[Generated, str], Scores]
"""A measure: the scores of the videos of a stage, given what was generated and its name.

It may have a method `check`, which takes what will be generated, still without videos, and raises a
ValueError if it cannot measure that.
"""


def check(measures: Mapping[str, Measure], made: Generated) -> None:
    """Check that all of them can measure what will be generated.

    Raises:
        ValueError: one cannot.
    """
    for measure in measures.values():
        if (own := getattr(measure, "check", None)) is not None:
            own(made)


Report = Mapping[str, Mapping[str, Scores]]
"""Measure → stage → scores."""


def apply(measures: Mapping[str, Measure], made: Generated) -> Report:
    """The scores of all stages by all measures."""
    return {
        name: {stage: measure(made, stage) for stage in made.videos}
        for name, measure in measures.items()
    }
