"""The protocol of measures: figures, their intervals, reports and pages; measures that can fail."""

import json
import math
from dataclasses import replace

import pytest
import torch

from cascade.eval.drift import Drift, Steps
from cascade.eval.following import PromptFollowing
from cascade.eval.measure import Figure, Generated, Measure, apply, check
from cascade.eval.motion import MotionErrors
from cascade.eval.story import StoryTold
from cascade.evaluate import write_report
from cascade.evaluation_page import add_evaluation
from cascade.grid import Grid
from cascade.report.page import Page
from data.worlds import physics, story
from data.worlds.read_minute import parse_minute, read_story
from data.worlds.read_physics import centroids
from data.worlds.truth import minute_truth, physics_truth

MINUTE = {
    "base": Grid(frames=32, height=16, width=16, fps=0.5),
    "tsr1": Grid(frames=128, height=16, width=16, fps=2),
}
MEASURES: dict[str, Measure] = {
    "prompts": PromptFollowing(parse_minute),
    "story": StoryTold(read_story),
    "drift": Drift(),
    "steps": Steps(joints=[16.0, 32.0]),
}
PHYSICS = {"base": Grid(frames=32, height=32, width=32, fps=10)}


def right(prompts, grids, render, given=0):
    """What a perfect cascade generates."""
    made = Generated(
        videos={},
        grids=grids,
        prompts=[text for text, _ in prompts],
        contents=[content for _, content in prompts],
        render=render,
        given=given,
    )
    return replace(
        made,
        videos={
            name: torch.stack([made.truth(name, n) for n in range(len(prompts))]) for name in grids
        },
    )


@pytest.fixture(scope="module")
def minute():
    return right(story.heldout_prompts(4), MINUTE, minute_truth)


@pytest.fixture(scope="module")
def report(minute):
    return apply(MEASURES, minute)


def test_right_videos_have_perfect_scores_by_every_measure(report):
    for stages in report.values():
        for scores in stages.values():
            for name, figure in scores.figures.items():
                assert len(figure.each) == 4, name
                if figure.share:
                    assert figure.value == 1, name
            for chart in scores.charts.values():
                made, truth = (torch.tensor(chart.lines[name]) for name in ("made", "truth"))
                torch.testing.assert_close(made, truth)
    assert report["drift"]["base"].figures["drift beyond the truth's"].value < 1e-6


def test_videos_of_other_prompts_are_told_apart(minute):
    rolled = {name: videos.roll(1, 0) for name, videos in minute.videos.items()}
    found = apply(MEASURES, replace(minute, videos=rolled))
    assert found["prompts"]["base"].figures["all"].value < 0.5
    assert found["story"]["base"].figures["events in order"].value < 1
    assert found["story"]["base"].figures["colour kept"].value == 1
    assert found["drift"]["base"].figures["drift beyond the truth's"].value > 0


def test_a_report_and_its_page_hold_every_stage_and_measure(minute, report, tmp_path):
    truth = {name: {"tsr1": stages["tsr1"]} for name, stages in report.items()}
    write_report(tmp_path / "evaluation.json", report)
    read = json.loads((tmp_path / "evaluation.json").read_text())
    assert {stage: [*measures] for stage, measures in read.items()} == {
        "base": [*MEASURES],
        "tsr1": [*MEASURES],
    }
    page = add_evaluation(Page("a minute"), report, truth, minute).write(tmp_path / "index.html")
    text = page.read_text()
    assert all(f"Measure: {name}" in text for name in MEASURES)
    assert text.count('class="rule"') >= 2
    assert "<video" in text


def test_videos_without_an_object_have_scores_in_valid_json(tmp_path):
    made = right(physics.heldout_prompts(2), PHYSICS, physics_truth, given=3)
    blank = replace(made, videos={"base": torch.full_like(made.videos["base"], 255)})
    measure = MotionErrors(centroids, physics.true_places)
    write_report(tmp_path / "evaluation.json", apply({"motion": measure}, blank))

    def refused(constant):
        raise AssertionError(f"{constant} is not JSON")

    text = (tmp_path / "evaluation.json").read_text()
    (first, _) = json.loads(text, parse_constant=refused)["base"]["motion"]["records"]
    assert first == {"velocity": None, "momentum": None, "energy": None, "lost": 1.0}
    all_given = measure(replace(blank, given=32), "base").figures
    assert all(not figure.scored for figure in all_given.values())


def test_motion_is_measured_after_the_given_frames_only():
    made = right(physics.heldout_prompts(3), PHYSICS, physics_truth, given=3)
    measure = MotionErrors(centroids, physics.true_places)
    floor = measure(made, "base").figures["velocity error"].value
    assert floor < 0.05
    spoiled = made.videos["base"].clone()
    spoiled[:, :, :2] = 255
    same = measure(replace(made, videos={"base": spoiled}), "base").figures["velocity error"]
    assert same.value == pytest.approx(floor)
    frozen = made.videos["base"].clone()
    frozen[:, :, 3:] = frozen[:, :, 2:3]
    still = measure(replace(made, videos={"base": frozen}), "base")
    speeds = [state.balls[0].speed for state in made.contents]
    wanted = sum(speeds) / len(speeds)
    assert still.figures["velocity error"].value == pytest.approx(wanted, rel=0.1)


def test_a_collision_counts_from_its_impact_on():
    prompts = physics.heldout_prompts(2, law="collision")
    true = physics.true_places(prompts[0][1], PHYSICS["base"])
    assert not true.counted[:, 0].any()
    made = right(prompts, PHYSICS, physics_truth, given=3)
    scores = MotionErrors(centroids, physics.true_places)(made, "base")
    assert scores.figures["momentum error"].value < 0.05
    assert scores.figures["energy error"].value < 0.05


def test_what_cannot_be_measured_is_known_before_anything_is_generated(minute):
    short = replace(minute, videos={}, grids={"base": replace(MINUTE["base"], frames=8)})
    with pytest.raises(ValueError, match="the largest lag is 50 s, but the video has 8 frames"):
        check(MEASURES, short)
    with pytest.raises(ValueError, match="joints: 16 s is no frame's time"):
        check({"steps": MEASURES["steps"]}, short)
    check(MEASURES, replace(minute, videos={}))


def test_given_frames_of_the_last_grid_are_fewer_in_an_earlier_one(minute):
    assert [replace(minute, given=5).given_at(name) for name in MINUTE] == [2, 5]


def test_a_share_has_wilsons_interval_and_a_mean_a_bootstraps():
    share = Figure(each=[1.0] * 9 + [0.0], share=True)
    assert share.value == 0.9
    assert share.interval == pytest.approx((0.596, 0.982), abs=1e-3)
    mean = Figure(each=[1.0, 2.0, 3.0, 4.0] * 25)
    low, high = mean.interval
    half = 1.96 * math.sqrt(1.25 / 100)
    assert (low, high) == pytest.approx((2.5 - half, 2.5 + half), abs=0.05)
    assert mean.interval == mean.interval


def test_videos_without_a_score_do_not_count():
    figure = Figure(each=[1.0, math.nan, 3.0], lower_is_better=True)
    assert figure.value == 2
    assert figure.worst(5) == [2, 0]
    assert figure.to_json()["each"] == [1.0, None, 3.0]
    nothing = Figure(each=[math.nan])
    assert math.isnan(nothing.value)
    assert nothing.to_json()["value"] is None
    assert str(nothing) == "–"
