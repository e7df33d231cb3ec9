import torch

from cascade.eval.long_video import measure_stages
from cascade.grid import Grid
from cascade.long_page import add_sections
from cascade.report.page import Page
from data.worlds.read_minute import read_story
from data.worlds.story import heldout_prompts
from data.worlds.truth import minute_truth

GRIDS = {
    "base": Grid(frames=32, height=16, width=16, fps=0.5),
    "tsr1": Grid(frames=128, height=16, width=16, fps=2),
}


def measured(change):
    contents = [content for _, content in heldout_prompts(4)]

    def truth(name: str, number: int) -> torch.Tensor:
        return minute_truth(contents[number], GRIDS[name], number)

    made = {name: torch.stack([truth(name, i) for i in range(4)]) for name in GRIDS}
    return measure_stages(
        {name: change(videos) for name, videos in made.items()},
        {name: grid.fps for name, grid in GRIDS.items()},
        truth,
        [content.order() for content in contents],
        reader=read_story,
        joints=[16.0, 32.0],
    )


def test_the_truth_has_its_own_curves_and_everything_in_order(tmp_path):
    found = measured(lambda videos: videos)
    for one in found.values():
        pairs = [(one.drift, one.truth_drift), (one.differences, one.truth_differences)]
        for made, truth in pairs:
            torch.testing.assert_close(torch.tensor(made), torch.tensor(truth))
        assert {share.value for share in one.shares.values()} == {1.0}
    path = add_sections(Page("a minute"), found).write(tmp_path / "long.html")
    page = path.read_text()
    assert page.count('class="chart"') == 3
    assert page.count('class="rule"') >= 2


def test_videos_of_other_prompts_are_out_of_order():
    found = measured(lambda videos: videos.roll(1, 0))["base"]
    assert found.shares["events in order"].value < 1
    assert found.to_json()["shares"]["colour kept"]["share"] == 1
