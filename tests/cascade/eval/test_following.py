import json

import pytest
import torch

from cascade.eval.following import ALL, Following, Reading, measure

PROMPTS = [
    ("a red ball", {"colour": "red", "shape": "ball"}),
    ("a blue ball", {"colour": "blue", "shape": "ball"}),
    ("a blue cube", {"colour": "blue", "shape": "cube"}),
    ("a red cube", {"colour": "red", "shape": "cube"}),
]
ANSWERS = [
    {"colour": "red", "shape": "ball"},
    {"colour": "red", "shape": "ball"},
    {"colour": "blue", "shape": "none"},
    {"colour": "red", "shape": "cube"},
]


def parser(video: torch.Tensor, fps: float) -> dict[str, str]:
    assert fps == 8
    return ANSWERS[int(video.flatten()[0])]


def videos(count: int = 4) -> list[torch.Tensor]:
    return [torch.full((3, 2, 4, 4), float(i)) for i in range(count)]


def following() -> Following:
    return measure(videos(), prompts=PROMPTS, parser=parser, fps=8)


def test_shares_count_each_attribute_and_all_at_once():
    shares = {name: share.right for name, share in following().shares().items()}
    assert shares == {"colour": 3, "shape": 3, ALL: 2}
    assert following().share("colour").interval[0] < 0.75 < following().share("colour").interval[1]


def test_confusion_says_what_was_read_instead():
    table = following().confusion("shape")
    assert table == {"ball": {"ball": 2}, "cube": {"cube": 1, "none": 1}}
    total = sum(count for row in following().confusion("colour").values() for count in row.values())
    assert total == 4


def test_an_attribute_the_parser_leaves_out_is_wrong():
    reading = Reading(prompt="p", wanted={"colour": "red"}, read={})
    assert not reading.right("colour")
    assert Following([reading]).confusion("colour") == {"red": {"none": 1}}


def test_it_all_goes_into_json():
    record = json.loads(json.dumps(following().to_json()))
    assert record["shares"]["all"]["right"] == 2
    assert len(record["readings"]) == 4


def test_the_same_prompts_are_paired():
    before = following()
    perfect = Following([Reading(prompt=p, wanted=w, read=w) for p, w in PROMPTS])
    change = before.change_to(perfect)
    assert (change.lost, change.gained, change.asked) == (0, 2, 4)
    assert change.value == pytest.approx(perfect.share().value - before.share().value)
    with pytest.raises(ValueError, match="only the same prompts"):
        before.change_to(Following(perfect.readings[:3]))


def test_a_missing_or_spare_video_is_refused():
    with pytest.raises(ValueError, match="got 3 videos for 4 prompts"):
        measure(videos(3), prompts=PROMPTS, parser=parser, fps=8)
    with pytest.raises(ValueError, match="got more than 3 videos for 3 prompts"):
        measure(videos(4), prompts=PROMPTS[:3], parser=parser, fps=8)
    with pytest.raises(ValueError, match="no prompt"):
        measure(videos(), prompts=[], parser=parser, fps=8)
    with pytest.raises(ValueError, match="the same attributes"):
        Following([Reading(prompt="p", wanted={k: "x"}, read={}) for k in ("a", "b")])
