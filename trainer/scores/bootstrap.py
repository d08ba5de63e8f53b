"""Estimate how far a figure could be off because other documents might have been drawn."""

import numpy as np

NUM_RESAMPLES = 1000
_LARGE = 100_000
"""From this many documents on, fewer resamples are drawn: their figures hardly differ."""


def ratio_interval(
    numerators: np.ndarray, denominators: np.ndarray, *, seed: int, level: float = 0.95
) -> tuple[float, float]:
    """Return a confidence interval of sum(numerators) / sum(denominators) over documents.

    Args:
        numerators: [n], such as the sum of a document's losses.
        denominators: [n], such as its number of tokens; their sum is positive.
        seed: of the resamples.
        level: share of the resamples' figures inside the interval.
    Returns:
        The percentile bootstrap's interval; NaN for fewer than two documents.
    Source: Efron 1979, percentile interval; documents are drawn whole, since their tokens depend on each other.
    """
    count = len(numerators)
    if count < 2:
        return float("nan"), float("nan")
    generator = np.random.default_rng(seed)
    figures = []
    for _ in range(NUM_RESAMPLES if count <= _LARGE else NUM_RESAMPLES // 5):
        drawn = generator.integers(0, count, count)
        total = denominators[drawn].sum(dtype=np.float64)
        if total > 0:
            figures.append(numerators[drawn].sum(dtype=np.float64) / total)
    tail = (1 - level) / 2
    low, high = np.quantile(figures, [tail, 1 - tail])
    return float(low), float(high)
