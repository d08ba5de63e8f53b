"""Estimate how much two layouts may differ from runs that differ by rounding errors only.

The reference is run again N times with random rounding errors (trainer.certificate.noise). The differences of
these runs from the reference have mean 0 if only rounding makes them, so the root of their mean square s estimates the
standard deviation with N degrees of freedom, and the difference of one more such run is within
t * s with probability 1 - p, where t is the quantile of Student's distribution with N degrees of freedom. p is the rate
of false alarms of the whole certificate, divided by the number of comparisons (Bonferroni).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

UNIT_ROUNDOFF = 2.0**-24
"""Of fp32."""
SMALLEST_BOUND = 4 * UNIT_ROUNDOFF
"""Lower limit of all bounds. A scalar is an fp32 number that is rounded when it is summed and when it is written, by u
each time, on both sides: even if few perturbed runs happen to agree, two equal computations may differ by as much."""


@dataclass(frozen=True, kw_only=True)
class Estimator:
    """Compute bounds from the differences of perturbed runs."""

    num_runs: int
    num_comparisons: int
    false_alarm_rate: float

    @property
    def factor(self) -> float:
        """Width of the bounds in standard deviations."""
        return student_t_quantile(self.false_alarm_rate / self.num_comparisons, degrees_of_freedom=self.num_runs)

    def bound(self, differences: Sequence[float]) -> float:
        """Return the bound of one quantity.

        Args:
            differences: of each perturbed run from the reference.
        """
        return max(SMALLEST_BOUND, self.factor * root_mean_square(differences))

    def bounds(self, differences: Sequence[Sequence[float]]) -> list[float]:
        """Return the bound of each step of a quantity.

        Args:
            differences: [N][K]: of each perturbed run at each step.
        Returns:
            [K], never decreasing: an error does not disappear again, so if differences happen to cross 0, the estimate
            of the steps before holds.
        """
        bounds: list[float] = []
        for step in zip(*differences, strict=True):
            bounds.append(max([*bounds[-1:], self.bound(step)]))
        return bounds


def root_mean_square(values: Sequence[float]) -> float:
    """Return the root of the mean square."""
    return math.sqrt(math.fsum(value * value for value in values) / len(values))


def relative_differences(values: Sequence[float], reference: Sequence[float]) -> list[float]:
    """Return |value - reference| / |reference| of each step; infinite if either is NaN."""
    return [_relative(value, expected) for value, expected in zip(values, reference, strict=True)]


def _relative(value: float, expected: float) -> float:
    if value == expected:
        return 0.0
    ratio = abs(value - expected) / abs(expected) if expected else math.inf
    return math.inf if math.isnan(ratio) else ratio


def student_t_quantile(outside: float, *, degrees_of_freedom: int) -> float:
    """Return the t for which a variable of Student's distribution is outside (-t, t) with the given probability.

    Source: Abramowitz and Stegun, 26.7.3 and 26.7.4 (finite series for whole degrees of freedom), by bisection.
    """
    low, high = 0.0, 1.0
    while _student_outside(high, degrees_of_freedom) > outside and high < 1e12:
        high *= 2
    for _ in range(200):
        middle = (low + high) / 2
        if _student_outside(middle, degrees_of_freedom) > outside:
            low = middle
        else:
            high = middle
    return high


def _student_outside(t: float, degrees_of_freedom: int) -> float:
    angle = math.atan(t / math.sqrt(degrees_of_freedom))
    is_odd = degrees_of_freedom % 2 == 1
    term, total = (math.cos(angle), math.cos(angle)) if is_odd else (1.0, 1.0)
    if degrees_of_freedom == 1:
        total = 0.0
    for k in range(3 if is_odd else 2, degrees_of_freedom - 1, 2):
        term *= (k - 1) / k * math.cos(angle) ** 2
        total += term
    inside = math.sin(angle) * total
    if is_odd:
        inside = 2 / math.pi * (angle + inside)
    return 1 - inside
