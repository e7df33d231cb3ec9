import json

import pytest
import torch

from cascade.eval.following import ALL, Following, Reading, following

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


TEXTS = [text for text, _ in PROMPTS]
WANTED = [wanted for _, wanted in PROMPTS]


def measured() -> Following:
    return following(videos(), WANTED, parser, fps=8, prompts=TEXTS)


def test_shares_count_each_attribute_and_all_at_once():
    shares = {name: share.right for name, share in measured().shares().items()}
    assert shares == {"colour": 3, "shape": 3, ALL: 2}
    assert measured().share("colour").interval[0] < 0.75 < measured().share("colour").interval[1]


def test_confusion_says_what_was_read_instead():
    table = measured().confusion("shape")
    assert table == {"ball": {"ball": 2}, "cube": {"cube": 1, "none": 1}}
    total = sum(count for row in measured().confusion("colour").values() for count in row.values())
    assert total == 4


def test_an_attribute_the_parser_leaves_out_is_wrong():
    reading = Reading(prompt="p", wanted={"colour": "red"}, read={})
    assert not reading.right("colour")
    assert Following([reading]).confusion("colour") == {"red": {"none": 1}}


def test_it_all_goes_into_json():
    record = json.loads(json.dumps(measured().to_json()))
    assert record["shares"]["all"]["right"] == 2
    assert len(record["readings"]) == 4


def test_the_same_prompts_are_paired():
    before = measured()
    perfect = Following([Reading(prompt=p, wanted=w, read=w) for p, w in PROMPTS])
    change = before.change_to(perfect)
    assert (change.lost, change.gained, change.asked) == (0, 2, 4)
    assert change.value == pytest.approx(perfect.share().value - before.share().value)
    with pytest.raises(ValueError, match="only the same prompts"):
        before.change_to(Following(perfect.readings[:3]))


def test_a_missing_or_spare_video_is_refused():
    with pytest.raises(ValueError, match="each of 4 wanted, got 3 videos and 4 prompts"):
        following(videos(3), WANTED, parser, fps=8)
    with pytest.raises(ValueError, match="got 4 videos and 3 prompts"):
        following(videos(), WANTED, parser, fps=8, prompts=TEXTS[:3])
    with pytest.raises(ValueError, match="at least one prompt"):
        following([], [], parser, fps=8)
    with pytest.raises(ValueError, match="the same attributes"):
        Following([Reading(prompt="p", wanted={k: "x"}, read={}) for k in ("a", "b")])
