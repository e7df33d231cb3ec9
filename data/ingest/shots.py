"""The first pass over a video: shot boundaries, brightness and motion."""

from dataclasses import dataclass, field
from functools import cache
from typing import Any

import av
import cv2
import numpy as np
from jaxtyping import UInt8

from data.ingest.frame_reader import Reel, frames, opened, picture, reel_of, shrunk
from data.ingest.recipe import Recipe

_CUT_WIDTH = 256  # PySceneDetect's own
_DARK = 32  # of 255
_DARK_SHARE = 0.98
_SAME = 0.25  # of 255: a smaller mean difference counts as no change


@dataclass(frozen=True, kw_only=True)
class Moment:
    """A sampled frame, compared with the sampled frame before it."""

    time: float
    black: bool
    change: float
    """Mean absolute difference of brightness, of 255."""
    motion: float
    """Mean length of the optical flow, in heights per second."""


@dataclass(kw_only=True)
class ShotSurvey:
    """The result of the first pass: the stream, the first frames of shots, and the moments."""

    reel: Reel
    cuts: list[int] = field(default_factory=list)
    moments: list[Moment] = field(default_factory=list)

    def scores(self, start: float, end: float) -> dict[str, float]:
        """The scores between two times in seconds; empty if there is no sampled frame."""
        inside = [m for m in self.moments if start <= m.time < end]
        found = {"black": float(np.mean([m.black for m in inside]))} if inside else {}
        if pairs := inside[1:]:
            found["still"] = float(np.mean([m.change < _SAME for m in pairs]))
            found["motion"] = float(np.mean([m.motion for m in pairs]))
        return {name: round(value, 5) for name, value in found.items()}


def survey(file: str, recipe: Recipe) -> ShotSurvey:
    """Read a whole video at a small size.

    Raises:
        DecodeError: with the reason.
    """
    with opened(file) as (container, stream):
        found = ShotSurvey(reel=reel_of(container, stream))
        cutter = _Cutter(recipe, float(stream.average_rate or 25))
        gauge = _Gauge(recipe)
        for time, frame in frames(container, stream, found.reel):
            small = _small(frame, found.reel)
            found.cuts += cutter.cuts(small)
            if (moment := gauge.moment(time, small)) is not None:
                found.moments.append(moment)
    return found


def _small(frame: av.VideoFrame, reel: Reel) -> UInt8[np.ndarray, "h w 3"]:
    side = round(_CUT_WIDTH * min(1.0, reel.height / reel.width))
    return picture(frame, reel, shrunk(reel.width, reel.height, max(side, 2)), "bgr24")


class _Cutter:
    """Shot detection frame by frame, by PySceneDetect's ContentDetector."""

    def __init__(self, recipe: Recipe, rate: float) -> None:
        from scenedetect.detectors import ContentDetector

        self._rate, self._seen = rate, 0
        shots = recipe.shots
        self._detector: Any = None
        if shots.threshold is not None:
            least = max(1, round(shots.min_s * rate))
            self._detector = ContentDetector(threshold=shots.threshold, min_scene_len=least)

    def cuts(self, small: UInt8[np.ndarray, "h w 3"]) -> list[int]:
        """The cuts that are detected at this frame, as frame numbers."""
        if self._detector is None:
            return []
        from scenedetect import FrameTimecode

        found = self._detector.process_frame(FrameTimecode(self._seen, self._rate), small)
        self._seen += 1
        return [cut.frame_num for cut in found]


class _Gauge:
    """Measures brightness and motion a few times per second."""

    def __init__(self, recipe: Recipe) -> None:
        self._measures = recipe.measures
        self._before: UInt8[np.ndarray, "h w"] | None = None
        self._time = float("-inf")

    def moment(self, time: float, small: UInt8[np.ndarray, "h w 3"]) -> Moment | None:
        """The moment of this frame, if it is sampled."""
        since = time - self._time
        if since < 1 / self._measures.fps - 1e-3:
            return None
        size = shrunk(small.shape[1], small.shape[0], self._measures.side)
        grey = cv2.cvtColor(small, cv2.COLOR_BGR2GRAY)
        grey = cv2.resize(grey, size, interpolation=cv2.INTER_AREA)
        before, self._before, self._time = self._before, grey, time
        change = motion = 0.0
        if before is not None:
            change = float(np.mean(cv2.absdiff(before, grey)))
            flow = _flow().calc(before, grey, None)
            motion = float(np.mean(np.hypot(flow[..., 0], flow[..., 1]))) / grey.shape[0] / since
        dark = float(np.mean(grey < _DARK))
        return Moment(time=time, black=dark >= _DARK_SHARE, change=change, motion=motion)


@cache
def _flow() -> Any:
    cv2.setNumThreads(1)
    return cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
