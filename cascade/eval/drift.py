"""How a long video changes: its drift from the first seconds, and the step from frame to frame."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from cascade.eval.measure import Chart, Curve, Figure, Generated, Scores
from cascade.video import to_float

LAGS = (2.0, 5.0, 10.0, 15.0, 20.0, 25.0, 30.0, 35.0, 40.0, 45.0, 50.0)
"""Seconds after the first ones at which similarity is measured."""
FIRST = 2.0
"""Seconds that all later ones are compared with."""


def drift(video: Shaped[Tensor, "c f h w"], fps: float, lags: Sequence[float] = LAGS) -> Curve:
    """(lag, similarity to the first seconds): 1 is the same, wherever in the frame things are.

    A frame is described by its mean colour and by the amplitudes of its Fourier transform, which do
    not change as an object moves. The similarity is the cosine of the amplitudes times one less
    half of the difference of the mean colours. A truth's own curve falls where objects leave, so
    compare a video with the truth for its prompt.

    Raises:
        ValueError: the video is shorter than the largest lag.
    """
    mean, amplitude = _described(_pixels(video))
    frames = video.shape[1]
    _check_lags(lags, frames, fps)
    first = max(1, round(FIRST * fps))
    return [
        (lag, _similarity(mean, amplitude, first, round(lag * fps), max(1, round(fps))))
        for lag in lags
    ]


def _check_lags(lags: Sequence[float], frames: int, fps: float) -> None:
    if max(lags) * fps > frames - 1:
        raise ValueError(
            f"drift: the largest lag is {max(lags):g} s, but the video has {frames} frames at "
            f"{fps:g} fps; take smaller lags, or a longer video"
        )


def _similarity(
    mean: Float[Tensor, "f c"], amplitude: Float[Tensor, "f n"], first: int, at: int, count: int
) -> float:
    """The mean similarity of `count` frames from `at` to the mean of the `first` ones."""
    own, colour = amplitude[:first].mean(0), mean[:first].mean(0)
    there = amplitude[at : at + count]
    cosine = torch.nn.functional.cosine_similarity(there, own[None], dim=1)
    apart = (mean[at : at + count] - colour).square().mean(1).sqrt()
    return float((cosine * (1 - apart / 2)).mean())


def _described(
    video: Float[Tensor, "c f h w"],
) -> tuple[Float[Tensor, "f c"], Float[Tensor, "f n"]]:
    """The mean colour of each frame, and the amplitudes of what differs from it."""
    mean = video.mean((2, 3), keepdim=True)
    amplitude = torch.fft.rfft2(video - mean).abs()
    return mean[:, :, 0, 0].T, amplitude.transpose(0, 1).flatten(1)


def frame_differences(video: Shaped[Tensor, "c f h w"], fps: float) -> Curve:
    """(time of the later frame, mean |x_{t+1} − x_t|) of pixels in [-1, 1]."""
    steps = _pixels(video).diff(dim=1).abs().mean((0, 2, 3))
    return [((i + 1) / fps, step) for i, step in enumerate(steps.tolist())]


@dataclass(frozen=True, kw_only=True)
class Joints:
    """The steps from frame to frame at the joints of windows, beside all others.

    `ratio` is the mean step at joints over that elsewhere; `worst` the largest step at a joint over
    the largest within a second (two frames at least) of it. Both are about 1, or less, if a joint
    leaves no mark.
    """

    ratio: float
    worst: float


def joint_steps(differences: Sequence[tuple[float, float]], joints: Sequence[float]) -> Joints:
    """Compare the steps at `joints`, the times of the first frames of windows, with the others.

    Raises:
        ValueError: a joint is not the time of a frame after the first.
    """
    times = torch.tensor([time for time, _ in differences], dtype=torch.float64)
    steps = torch.tensor([step for _, step in differences], dtype=torch.float64)
    at = torch.tensor([int((times - joint).abs().argmin()) for joint in joints])
    step = float(times[1] - times[0]) if len(times) > 1 else 0.0
    for joint, index in zip(joints, at.tolist(), strict=True):
        if abs(float(times[index]) - joint) > step / 2:
            raise ValueError(
                f"joints: {joint:g} s is no frame's time; the frames after the first are from "
                f"{float(times[0]):g} s to {float(times[-1]):g} s"
            )
    other = torch.ones(len(steps), dtype=torch.bool)
    other[at] = False
    near = max(1.0, 2 * step)
    least = 1 / 255 / 10  # below what 8 bits show, a step is none
    worst = [
        float(steps[i]) / max(least, float(steps[other & ((times - times[i]).abs() <= near)].max()))
        for i in at.tolist()
    ]
    return Joints(
        ratio=float(steps[at].mean()) / max(least, float(steps[other].mean())), worst=max(worst)
    )


def mean_curve(curves: Sequence[Curve]) -> Curve:
    """The mean of curves over the same seconds."""
    return [
        (points[0][0], sum(value for _, value in points) / len(points))
        for points in zip(*curves, strict=True)
    ]


def _pixels(video: Shaped[Tensor, "c f h w"]) -> Float[Tensor, "c f h w"]:
    return video.float() if video.is_floating_point() else to_float(video)


class Drift:
    """The measure of drift: how far the similarity to the first seconds is from the truth's."""

    def __init__(self, lags: Sequence[float] = LAGS) -> None:
        self.lags = tuple(lags)

    def check(self, made: Generated) -> None:
        """Refuse videos that are shorter than the largest lag."""
        for grid in made.grids.values():
            _check_lags(self.lags, grid.frames, grid.fps)

    def __call__(self, made: Generated, stage: str) -> Scores:
        """The scores of a stage: mean |similarity − that of the truth| over the lags."""
        fps = made.grids[stage].fps
        own = [drift(video, fps, self.lags) for video in made.videos[stage]]
        true = [drift(made.truth(stage, n), fps, self.lags) for n in range(len(own))]
        apart = [
            sum(abs(a - b) for (_, a), (_, b) in zip(one, other, strict=True)) / len(one)
            for one, other in zip(own, true, strict=True)
        ]
        chart = Chart(
            lines={"made": mean_curve(own), "truth": mean_curve(true)},
            x_label="seconds after the first",
            y_label="similarity",
            caption="Similarity of the frames to those of the first two seconds, as means over all "
            "videos. It falls in the truth too, where objects leave the frame.",
        )
        return Scores(
            figures={"drift beyond the truth's": Figure(each=apart, lower_is_better=True)},
            charts={"Drift": chart},
        )


class Steps:
    """The measure of the steps from frame to frame, at the joints of windows and elsewhere."""

    def __init__(self, joints: Sequence[float] = ()) -> None:
        """`joints` are the times in seconds of the first frames of windows."""
        self.joints = tuple(joints)

    def check(self, made: Generated) -> None:
        """Refuse joints that are not the time of a frame."""
        for grid in made.grids.values():
            times = [(i / grid.fps, 0.0) for i in range(1, grid.frames)]
            if self.joints:
                joint_steps(times, self.joints)

    def __call__(self, made: Generated, stage: str) -> Scores:
        """The scores of a stage: how far its mean step is from that of the truth, joints' steps."""
        fps = made.grids[stage].fps
        own = [frame_differences(video, fps) for video in made.videos[stage]]
        true = [frame_differences(made.truth(stage, n), fps) for n in range(len(own))]
        apart = [abs(_mean(one) - _mean(other)) for one, other in zip(own, true, strict=True)]
        figures = {"mean step beyond the truth's": Figure(each=apart, lower_is_better=True)}
        if self.joints:
            ratios = [joint_steps(curve, self.joints).ratio for curve in own]
            figures["step at joints / elsewhere"] = Figure(each=ratios, lower_is_better=True)
        chart = Chart(
            lines={"made": mean_curve(own), "truth": mean_curve(true)},
            y_label="mean |difference|",
            marks=self.joints,
            caption="The mean difference of neighbouring frames; vertical lines are the joints of "
            "windows.",
        )
        return Scores(figures=figures, charts={"Steps from frame to frame": chart})


def _mean(curve: Curve) -> float:
    return sum(value for _, value in curve) / len(curve)
