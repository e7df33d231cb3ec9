"""Measures of long videos, per stage: drift, joints, events in order, identity."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jaxtyping import Shaped
from torch import Tensor

from cascade.eval.drift import (
    Curve,
    Joints,
    drift,
    frame_differences,
    joint_steps,
    mean_curve,
)
from cascade.eval.interval import Share
from cascade.eval.story import Reader, Story, events_in_order, identity_kept, stories

Videos = Iterable[Shaped[Tensor, "c f h w"]]


@dataclass(frozen=True, kw_only=True)
class LongVideos:
    """The measures of the videos of one stage, beside the ground truth for the same prompts."""

    stories: Sequence[Story]
    drift: Curve
    truth_drift: Curve
    differences: Curve
    truth_differences: Curve
    joints: Sequence[float]
    marks: Joints | None

    @property
    def shares(self) -> dict[str, Share]:
        """The share of videos with all events in order, and of those that keep each attribute."""
        kept = identity_kept(self.stories)
        return {"events in order": events_in_order(self.stories)} | {
            f"{name} kept": share for name, share in kept.items()
        }

    def to_json(self) -> dict[str, Any]:
        """All measures."""
        return {
            "shares": {name: share.to_json() for name, share in self.shares.items()},
            "drift": self.drift,
            "truth_drift": self.truth_drift,
            "differences": self.differences,
            "truth_differences": self.truth_differences,
            "joints": [*self.joints],
            "marks": None if self.marks is None else vars(self.marks),
            "stories": [story.to_json() for story in self.stories],
        }


def long_videos(
    videos: Sequence[Shaped[Tensor, "c f h w"]],
    truths: Videos,
    wanted: Sequence[Sequence[str]],
    *,
    reader: Reader,
    fps: float,
    joints: Sequence[float] = (),
) -> LongVideos:
    """Measure videos beside their ground `truths`; `joints` are the first times of windows."""
    curves = [
        (drift(truth, fps), frame_differences(truth, fps)) for truth in truths
    ]  # one truth is in memory at a time
    differences = mean_curve([frame_differences(video, fps) for video in videos])
    return LongVideos(
        stories=stories(videos, wanted, reader, fps=fps),
        drift=mean_curve([drift(video, fps) for video in videos]),
        truth_drift=mean_curve([one for one, _ in curves]),
        differences=differences,
        truth_differences=mean_curve([one for _, one in curves]),
        joints=joints,
        marks=joint_steps(differences, joints) if joints else None,
    )


def measure_stages(
    videos: Mapping[str, Shaped[Tensor, "n c _f _h _w"]],
    fps: Mapping[str, float],
    truth: Callable[[str, int], Shaped[Tensor, "c f h w"]],
    wanted: Sequence[Sequence[str]],
    *,
    reader: Reader,
    joints: Sequence[float] = (),
) -> dict[str, LongVideos]:
    """The measures after every stage; `truth` renders (stage, number of the prompt)."""
    return {
        name: long_videos(
            list(made),
            (truth(name, number) for number in range(len(made))),
            wanted,
            reader=reader,
            fps=fps[name],
            joints=joints,
        )
        for name, made in videos.items()
    }
