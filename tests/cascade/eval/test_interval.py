import math

import pytest

from cascade.eval.interval import Change, Share


def test_wilson_agrees_with_published_values():
    # Newcombe (1998), table I, method 3.
    for right, asked, low, high in ((81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605)):
        found = Share(right=right, asked=asked).interval
        assert found == pytest.approx((low, high), abs=5e-5)
    assert Share(right=0, asked=20).interval == pytest.approx((0.0, 0.1611), abs=5e-5)
    assert Share(right=29, asked=29).interval == pytest.approx((0.8830, 1.0), abs=5e-5)


def test_an_interval_holds_its_share_and_narrows_with_the_count():
    widths = []
    for asked in (10, 100, 1000):
        low, high = Share(right=asked // 2, asked=asked).interval
        assert low < 0.5 < high
        widths.append(high - low)
    assert widths == sorted(widths, reverse=True)


def test_nothing_asked_is_nothing_known():
    empty = Share(right=0, asked=0)
    assert math.isnan(empty.value)
    assert empty.interval == (0.0, 1.0)
    assert empty.to_json()["share"] is None
    assert str(empty) == "–"
    with pytest.raises(ValueError, match="3 right of 2"):
        Share(right=3, asked=2)


def test_mcnemar_is_the_sign_test_of_what_changed():
    assert Change(lost=0, gained=5, asked=50).p_value == pytest.approx(2 / 32)
    assert Change(lost=4, gained=4, asked=50).p_value == 1.0
    assert Change(lost=0, gained=0, asked=50).p_value == 1.0


def test_a_change_counts_only_what_differs():
    change = Change(lost=2, gained=12, asked=100)
    assert change.value == pytest.approx(0.10)
    low, high = change.interval
    assert 0 < low < 0.10 < high
    assert Change(lost=12, gained=2, asked=100).interval == pytest.approx((-high, -low))
    assert str(change).startswith("+10.0 [+")
    assert change.to_json()["p"] < 0.05
