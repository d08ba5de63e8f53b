"""Robust statistics: what is unusual beside what came before."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from trainer.loop.spikes import find_spike, robust_z_score

RULE = {"min_values": 4, "threshold": 8.0, "min_rise": 0.1}


@given(values=st.lists(st.floats(-100, 100), min_size=3, max_size=40), value=st.floats(-100, 100))
def test_the_score_is_that_of_scipy(values: list[float], value: float) -> None:
    deviation = stats.median_abs_deviation(values, scale="normal")
    score, median = robust_z_score(value, before=values)
    assert median == pytest.approx(np.median(values))
    if deviation > 1e-6:
        assert score == pytest.approx((value - median) / deviation, rel=1e-4, abs=1e-9)


def test_a_value_after_a_constant_window_has_an_infinite_score() -> None:
    assert robust_z_score(2.0, before=[2.0] * 5) == (0.0, 2.0)
    assert robust_z_score(2.5, before=[2.0] * 5) == (math.inf, 2.0)
    assert robust_z_score(1.5, before=[2.0] * 5) == (-math.inf, 2.0)


def test_a_spike_is_far_above_and_not_below() -> None:
    before = [2.0, 2.1, 1.9, 2.05, 1.95]
    spike = find_spike(4.0, before=before, **RULE)
    assert spike is not None and spike.value == 4.0 and spike.median == 2.0
    assert spike.score == pytest.approx(2.0 / (1.4826 * 0.05))
    assert find_spike(0.0, before=before, **RULE) is None
    assert find_spike(2.3, before=before, **RULE) is None


def test_earlier_spikes_do_not_hide_the_next_one() -> None:
    before = [2.0, 2.1, 1.9, 9.0, 2.05, 9.0, 1.95, 9.5]
    assert find_spike(9.0, before=[2.0, 2.1, 1.9, 9.0, 2.05, 1.95, 2.0], **RULE) is not None
    assert (9.0 - np.mean(before)) / np.std(before) < 2, "mean and standard deviation would let it pass"


def test_small_rises_and_short_histories_are_not_spikes() -> None:
    assert find_spike(2.05, before=[2.0] * 10, **RULE) is None
    assert find_spike(9.0, before=[2.0, 2.1, 1.9], **RULE) is None
