"""From shots to windows: the frames of a video that become clips."""

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise

import numpy as np
from jaxtyping import Int64

from data.ingest.recipe import Filters, Windows
from data.ingest.shots import ShotSurvey

Reason = str
"""Why a clip is dropped, in one or two words that the report counts; '' if it is kept."""


@dataclass(kw_only=True)
class Window:
    """A part of a video: frames `first` to `last` (exclusive), from `start` to `end` seconds."""

    number: int
    first: int
    last: int
    start: float
    end: float
    reason: Reason = ""
    scores: dict[str, float] = field(default_factory=dict)

    @property
    def duration(self) -> float:
        """Duration in seconds."""
        return self.end - self.start

    def drop(self, reason: Reason) -> None:
        """Drop the window; the first reason counts."""
        self.reason = self.reason or reason

    def spread(self, count: int) -> list[int]:
        """`count` frames spread over the window, in the middles of equal parts."""
        length = self.last - self.first
        return [self.first + (2 * i + 1) * length // (2 * count) for i in range(count)]

    def repeats(self, times: Sequence[float], rate: Fraction) -> Int64[np.ndarray, " f"]:
        """The number of times that each frame is repeated at a constant rate.

        Tick k shows the frame at its middle, (k + 1/2) / rate after the start.
        """
        ticks = max(1, round(self.duration * rate))
        middles = self.start + (np.arange(ticks) + 0.5) / float(rate)
        own = np.asarray(times[self.first : self.last])
        shown = np.clip(np.searchsorted(own, middles, side="right") - 1, 0, len(own) - 1)
        return np.bincount(shown, minlength=len(own)).astype(np.int64)


def cut_windows(
    times: Sequence[float], end: float, cuts: Sequence[int], windows: Windows
) -> list[Window]:
    """The windows of a video in order: shots, split evenly if long, and dropped if short."""
    found: list[Window] = []
    edges = [0, *(cut for cut in cuts if 0 < cut < len(times)), len(times)]
    for a, b in pairwise(sorted(set(edges))):
        start, stop = times[a], times[b] if b < len(times) else end
        parts = max(1, math.ceil((stop - start) / windows.max_s - 1e-6))
        seconds = [start + i * (stop - start) / parts for i in range(parts)]
        firsts = [a, *(bisect_left(times, second, a, b) for second in seconds[1:]), b]
        for (first, last), (since, until) in zip(
            pairwise(firsts), pairwise([*seconds, stop]), strict=True
        ):
            window = Window(number=len(found), first=first, last=last, start=since, end=until)
            if window.duration < windows.min_s - 1e-6 or first == last:
                window.drop("too short")
            found.append(window)
    return found


def judge(window: Window, survey: ShotSurvey, filters: Filters) -> None:
    """Add the scores of the first pass to a window, and drop it if one is beyond its threshold."""
    reel, scores = survey.reel, survey.scores(window.start, window.end)
    window.scores |= scores
    if below(min(reel.width, reel.height), filters.min_short_side):
        window.drop("too small")
    if above(scores.get("black"), filters.black):
        window.drop("black")
    if above(scores.get("still"), filters.still):
        window.drop("frozen")
    if below(scores.get("motion"), filters.motion):
        window.drop("low motion")


def above(score: float | None, limit: float | None) -> bool:
    """Whether a measured score is above a limit; False if either is None."""
    return score is not None and limit is not None and score > limit


def below(score: float | None, limit: float | None) -> bool:
    """Whether a measured score is below a limit; False if either is None."""
    return score is not None and limit is not None and score < limit
