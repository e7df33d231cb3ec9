import torch
from torch import Tensor

from cascade.eval.story import identity, stories
from cascade.grid import Grid
from data.worlds.minute import Minute, MinuteState
from data.worlds.read_minute import read_story
from data.worlds.story import Content

GRID = Grid(frames=64, height=16, width=16, fps=1)
PARTS = ("sideways", "gone", "sideways", "still")
ORDER = ("sideways", "gone", "sideways", "still")


def clip(parts=PARTS, **changed: str) -> Tensor:
    words = {"shape": "circle", "colour": "red", "background": "black", **changed}
    content = Content(**words, parts=parts)
    state = MinuteState(content=content, phases=(0.1, 0.3), near=0.1, side=1, begin=0.0)
    return torch.from_numpy(Minute().render(state, GRID)).permute(3, 0, 1, 2)


def read(*videos: Tensor):
    return stories(videos, [ORDER] * len(videos), read_story, fps=1)


def test_the_truth_tells_its_story_with_one_object():
    (story,) = read(clip())
    assert story.in_order
    assert story.kept == {"colour": 1.0, "shape": 1.0}


def test_events_that_are_swapped_or_missing_are_out_of_order():
    swapped = clip(("sideways", "still", "sideways", "up and down"))
    missing = clip(("sideways", "sideways", "sideways", "still"))
    backward = clip().flip(1)
    found = read(swapped, missing, backward, clip())
    assert [story.in_order for story in found] == [False, False, False, True]


def test_an_object_that_changes_shape_at_thirty_seconds_is_another():
    changed = torch.cat([clip()[:, :36], clip(shape="cross")[:, 36:]], dim=1)
    (story,) = read(changed)
    assert story.kept["colour"] == 1
    assert story.kept["shape"] < 0.8
    assert story.in_order


def test_a_hue_that_drifts_to_another_colour_is_another_object():
    share = torch.linspace(0, 1, 64)[None, :, None, None]
    drifted = torch.lerp(clip().float(), clip(colour="blue").float(), share).round().byte()
    (story,) = read(drifted)
    assert story.kept["colour"] < 0.8


def test_identity_counts_only_frames_in_which_something_was_read():
    assert identity(["red", "none", "red", "blue"]) == 2 / 3
    assert identity(["none", "none"]) == 0
