import pytest
import torch
from torch import Tensor

from cascade.eval.drift import drift, frame_differences, joint_steps, mean_curve
from cascade.grid import Grid
from cascade.video import to_float
from data.worlds.minute import Minute, MinuteState
from data.worlds.story import Content

GRID = Grid(frames=256, height=16, width=16, fps=4)
LAGS = (2.0, 10.0, 20.0, 30.0, 40.0, 50.0)


def clip(**changed: str) -> Tensor:
    """A minute in which the object never leaves, as floats."""
    words = {"shape": "circle", "colour": "red", "background": "black", **changed}
    content = Content(**words, parts=("sideways", "up and down", "still", "sideways"))
    state = MinuteState(content=content, phases=(0.1, 0.3), near=0.1, side=1, begin=0.0)
    return to_float(torch.from_numpy(Minute().render(state, GRID)).permute(3, 0, 1, 2))


def values(video: Tensor) -> list[float]:
    return [value for _, value in drift(video, 4, LAGS)]


def test_motion_is_no_drift():
    assert min(values(clip())) > 0.95


def test_a_hue_that_drifts_slowly_is_a_falling_curve():
    share = torch.linspace(0, 1, 256)[None, :, None, None]
    found = values(torch.lerp(clip(), clip(colour="green"), share))
    assert found == sorted(found, reverse=True)
    assert found[-1] < 0.8 < found[0]


@pytest.mark.parametrize("other", [{"shape": "bar"}, {"background": "white"}])
def test_a_change_at_thirty_seconds_is_a_fall_there(other: dict[str, str]):
    video = torch.cat([clip()[:, :120], clip(**other)[:, 120:]], dim=1)
    found = values(video)
    assert min(found[:3]) > 0.95
    assert max(found[3:]) < 0.9


def test_the_largest_lag_must_lie_in_the_video():
    with pytest.raises(ValueError, match=r"largest lag is 50 s, but the video has 100 frames"):
        drift(clip()[:, :100], 4, LAGS)


def test_pixels_of_eight_bits_and_floats_are_the_same_video():
    video = clip()
    eight = ((video + 1) * 127.5).round().to(torch.uint8)
    assert values(eight) == pytest.approx(values(video), abs=1e-4)


JOINTS = [8.0, 16.0, 24.0, 32.0, 40.0, 48.0, 56.0]


def test_a_jump_at_joints_is_found_and_none_is_found_in_the_truth():
    video = clip()
    clean = joint_steps(frame_differences(video, 4), JOINTS)
    assert clean.ratio < 1.5
    assert clean.worst < 1.5
    jumping = video.clone()
    for first in range(32, 256, 64):  # every other window is two pixels off
        jumping[:, first : first + 32] = video[:, first : first + 32].roll(2, dims=-1)
    found = joint_steps(frame_differences(jumping, 4), JOINTS)
    assert found.ratio > 2
    assert found.worst > 2


def test_a_brightness_step_at_one_joint_is_the_worst():
    video = clip().clone()
    video[:, 128:] += 0.1
    found = joint_steps(frame_differences(video, 4), JOINTS)
    assert found.worst > 3


def test_the_time_of_a_difference_is_the_later_frame_s():
    video = torch.zeros(3, 6, 4, 4)
    video[:, 3:] = 1.0
    assert frame_differences(video, 2) == [
        (0.5, 0.0),
        (1.0, 0.0),
        (1.5, 1.0),
        (2.0, 0.0),
        (2.5, 0.0),
    ]
    with pytest.raises(ValueError, match="9 s is no frame's time"):
        joint_steps(frame_differences(video, 2), [9.0])


def test_a_mean_curve_is_the_mean_at_each_lag():
    one, other = [(1.0, 0.0), (2.0, 1.0)], [(1.0, 1.0), (2.0, 1.0)]
    assert mean_curve([one, other]) == [(1.0, 0.5), (2.0, 1.0)]
