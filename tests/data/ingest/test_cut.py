from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest

from data.ingest.cut import Window, cut_windows
from data.ingest.encode import frame_rate, is_constant
from data.ingest.recipe import Windows
from data.ingest.shots import survey


@pytest.mark.media
def test_cuts_are_found_where_pyscenedetect_finds_them(media, make_recipe):
    assert survey(str(media / "hazards/shot_cuts.mp4"), make_recipe()).cuts == [30, 180, 394]


def test_without_a_threshold_a_video_is_one_shot(videos, make_recipe):
    file = str(videos / "some/video.0.mp4")
    assert survey(file, make_recipe()).cuts == [26]
    assert survey(file, make_recipe("shots.threshold=null")).cuts == []


@pytest.mark.parametrize("seed", range(20))
def test_windows_tile_the_video_inside_shots_and_are_as_long_as_asked(seed):
    random = np.random.default_rng(seed)
    times = np.cumsum(random.uniform(0.02, 0.08, size=900)).tolist()
    end = times[-1] + 0.04
    cuts = sorted(random.choice(np.arange(1, 900), size=6, replace=False).tolist())
    found = cut_windows(times, end, cuts, Windows(min_s=1.0, max_s=4.0))
    assert found[0].first == 0
    assert found[-1].last == 900
    for before, after in pairwise(found):
        assert before.last == after.first
        assert before.end == after.start
    for window in found:
        assert not any(window.first < cut < window.last for cut in cuts)
        assert bool(window.reason) == (window.duration < 1.0)
        assert window.duration <= 4.0 + 1e-6
    shots = {cut: [] for cut in [0, *cuts]}
    for window in found:
        shots[max(cut for cut in shots if cut <= window.first)].append(window.duration)
    for lengths in shots.values():
        assert max(lengths) - min(lengths) < 1e-6


def test_a_constant_rate_shows_every_frame_once_and_a_variable_one_what_is_on():
    times = [i / 25 for i in range(100)]
    whole = Window(number=0, first=0, last=100, start=0.0, end=4.0)
    assert whole.repeats(times, Fraction(25)).tolist() == [1] * 100
    assert whole.repeats(times, Fraction(25, 2)).sum() == 50
    varying = Window(number=0, first=0, last=3, start=0.0, end=2.0)
    assert varying.repeats([0.0, 0.5, 1.75], Fraction(4)).tolist() == [2, 5, 1]


@pytest.mark.parametrize("rate", [24, 25, 30, 30000 / 1001, 24000 / 1001, 60, 8, 10])
@pytest.mark.parametrize("frames", [20, 300])
def test_a_rate_is_found_from_stamps_in_milliseconds(rate, frames):
    times = [round(i / rate, 3) for i in range(frames)]
    assert is_constant(times)
    found = frame_rate(times, frames / rate, None)
    assert float(found) == pytest.approx(rate, rel=1.5e-3 if frames == 20 else 1e-6)


def test_the_rate_of_a_video_with_dropped_frames_is_that_of_its_steps():
    times = [i / 24 for i in range(240) if i % 3]
    assert not is_constant(times)
    assert frame_rate(sorted({*times, 5 / 24, 6 / 24, 9 / 24}), 10.0, None) in (
        Fraction(24),
        Fraction(24000, 1001),
    )
    assert frame_rate(times, 10.0, 12.0) == 12
