import math
import random

import pytest

from trainer.certificate.bounds import (
    SMALLEST_BOUND,
    Estimator,
    relative_differences,
    root_mean_square,
    student_t_quantile,
)


@pytest.mark.parametrize(
    ("degrees_of_freedom", "outside", "quantile"),
    # Student's table; 2.306 and 5.041 for 8 degrees of freedom are in every textbook.
    [
        (1, 0.05, 12.7062),
        (2, 0.05, 4.3027),
        (5, 0.05, 2.5706),
        (8, 0.05, 2.3060),
        (8, 0.001, 5.0413),
        (16, 4e-6, 6.8362),
    ],
)
def test_quantiles_are_those_of_the_table(degrees_of_freedom: int, outside: float, quantile: float) -> None:
    assert student_t_quantile(outside, degrees_of_freedom=degrees_of_freedom) == pytest.approx(quantile, abs=1e-4)


def test_normal_differences_exceed_the_bounds_at_the_stated_rate() -> None:
    generator = random.Random(7)
    estimator = Estimator(num_runs=4, num_comparisons=5, false_alarm_rate=0.5)
    alarms = sum(
        abs(generator.gauss(0, 3e-7)) > estimator.bound([generator.gauss(0, 3e-7) for _ in range(4)])
        for _ in range(20_000)
    )
    assert alarms / 20_000 == pytest.approx(0.1, abs=0.01), "0.5 over 5 comparisons"


def test_bounds_never_decrease_and_have_a_minimum() -> None:
    estimator = Estimator(num_runs=2, num_comparisons=1, false_alarm_rate=0.05)
    bounds = estimator.bounds([[0.0, 1e-6, 0.0], [0.0, -1e-6, 1e-8]])
    assert bounds[0] == SMALLEST_BOUND
    assert bounds[1] == bounds[2] == pytest.approx(4.3027e-6, rel=1e-4)


def test_more_comparisons_widen_the_bounds() -> None:
    few, many = (Estimator(num_runs=8, num_comparisons=n, false_alarm_rate=0.01) for n in (1, 1000))
    assert many.bound([1e-7] * 8) > 2 * few.bound([1e-7] * 8)


def test_differences_are_relative_and_nan_is_infinite() -> None:
    assert relative_differences([1.1, 0.0, 1.0], [1.0, 0.0, 0.0]) == [pytest.approx(0.1), 0.0, math.inf]
    assert relative_differences([math.nan, 1.0], [1.0, math.nan]) == [math.inf, math.inf]
    assert root_mean_square([3.0, -4.0]) == pytest.approx(math.sqrt(12.5))
