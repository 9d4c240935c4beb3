"""The ratio that benchmarks quote, on made-up seconds."""

import numpy as np
import pytest

from benchmarks.measure import Ratio, ratio


def test_a_slow_spell_that_takes_both_changes_nothing():
    found = ratio([2.0, 20.0, 2.2], [1.0, 10.0, 1.1])
    assert found == pytest.approx((2, 2, 2))
    assert found.text(".1%") == "200.0% (200.0% to 200.0%)"


def test_what_is_too_close_to_tell_is_called_not_sure():
    assert Ratio(1.01, 0.99, 1.015).judged("≤ 1.02", 1.02) == "≤ 1.02"
    assert Ratio(1.01, 0.99, 1.04).judged("≤ 1.02", 1.02) == "≤ 1.02 reached, not sure"
    assert Ratio(1.03, 0.99, 1.04).judged("≤ 1.02", 1.02) == "≤ 1.02 **not reached**, not sure"
    assert Ratio(1.2, 1.1, 1.25).judged("≥ 1.3", 1.3, least=True) == "≥ 1.3 **not reached**"


@pytest.mark.parametrize("turns", [8, 60])
def test_the_interval_holds_the_truth_about_as_often_as_it_says(turns, monkeypatch):
    monkeypatch.setattr("benchmarks.measure.BOOTSTRAP_DRAWS", 2000)
    random = np.random.default_rng(1)
    inside = 0
    for _ in range(100):
        ones = 1.5 * random.lognormal(0, 0.2, turns)
        found = ratio(ones, np.ones(turns))
        inside += found.low <= 1.5 <= found.high
    assert 88 <= inside < 100


def test_more_turns_make_it_surer():
    seconds = np.random.default_rng(2).lognormal(0, 0.2, 400)
    few, many = ratio(seconds[:20], np.ones(20)), ratio(seconds, np.ones(400))
    assert many.high - many.low < (few.high - few.low) / 2
