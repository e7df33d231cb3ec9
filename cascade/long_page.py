"""The page of long videos: drift, steps from frame to frame, events in order, identity."""

from collections.abc import Mapping
from pathlib import Path

from cascade.eval.long_video import LongVideos
from cascade.report.page import Page


def add_sections(page: Page, measured: Mapping[str, LongVideos]) -> Page:
    """The measures after the last stage as curves, and the shares after every stage."""
    stage, last = list(measured.items())[-1]
    page.section(
        "Drift",
        "Similarity of the frames to those of the first two seconds, as means over all videos. It "
        "falls in the truth too, where objects leave the frame: what counts is the difference.",
    )
    page.lines(
        {"made": last.drift, "truth": last.truth_drift},
        x_label="seconds after the first",
        y_label="similarity",
        caption=f"After {stage}.",
    )
    page.section("Steps from frame to frame", _marks(last))
    page.lines(
        {"made": last.differences, "truth": last.truth_differences},
        x_label="seconds",
        y_label="mean |difference|",
        marks=last.joints,
        caption=f"After {stage}; vertical lines are the joints of windows.",
    )
    page.section("Events and identity", "A parser reads every frame; intervals are 95 %.")
    page.intervals(
        {
            name: {
                each: (one.shares[name].value, *one.shares[name].interval)
                for each, one in measured.items()
            }
            for name in last.shares
        }
    )
    return page


def _marks(last: LongVideos) -> str:
    if last.marks is None:
        return "The mean difference of neighbouring frames; no joints of windows were named."
    return (
        f"The mean difference of neighbouring frames is {last.marks.ratio:.2f} times as large at "
        f"joints as elsewhere, and at most {last.marks.worst:.2f} times the largest of the second "
        "before and after."
    )


def write_page(path: Path, title: str, measured: Mapping[str, LongVideos]) -> Path:
    """A page of the measures alone."""
    return add_sections(Page(title), measured).write(path)
