"""How unusual a value is beside those before it: pure functions."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

CONSISTENCY = 1.4826
"""Times the median absolute deviation of a normal distribution is its standard deviation."""


@dataclass(frozen=True, kw_only=True)
class Unusual:
    """A value that is far above those before it."""

    value: float
    median: float
    """Of those before."""
    score: float
    """Robust standard deviations above the median; infinite where those before were all the same."""


def robust_z_score(value: float, *, before: Sequence[float]) -> tuple[float, float]:
    """How many robust standard deviations a value lies above the median of others.

    Median and median absolute deviation do not move when less than half of the values go astray, so a spike does not
    hide the next one.

    Args:
        before: at least one.
    Returns:
        The score, infinite where all of `before` are the same and the value is another one, and the median.
    Source: the modified z-score of Iglewicz and Hoaglin, How to Detect and Handle Outliers, 1993.
    """
    median = statistics.median(before)
    deviation = CONSISTENCY * statistics.median(abs(other - median) for other in before)
    rise = value - median
    if rise == 0:
        return 0.0, median
    return (rise / deviation if deviation > 0 else float("inf") * rise), median


def find_spike(
    value: float, *, before: Sequence[float], min_values: int, threshold: float, min_rise: float
) -> Unusual | None:
    """Whether a value is a spike upwards.

    Args:
        before: the values that say what is usual.
        min_values: with fewer of them nothing is a spike.
        threshold: least score, in robust standard deviations.
        min_rise: least distance to the median. Late in training the deviation is so small that rises without any
            meaning have large scores.
    """
    if len(before) < min_values:
        return None
    # Told first for nearly every step, at a third of the time that the deviation takes as well.
    if value - statistics.median(before) < min_rise:
        return None
    score, median = robust_z_score(value, before=before)
    if score < threshold:
        return None
    return Unusual(value=value, median=median, score=score)
