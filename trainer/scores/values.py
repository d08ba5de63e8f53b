"""Score predicted numbers. n: examples."""

import numpy as np


def score_values(predicted: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Score predictions of a number per example.

    Args:
        predicted: [n], n > 0.
        labels: [n].
    Returns:
        mean_squared_error; mean_absolute_error; pearson; spearman, the correlation of ranks, where equal numbers share
        their mean rank. A correlation is 0 where all predictions or all labels are equal.
    """
    errors = predicted.astype(np.float64) - labels.astype(np.float64)
    return {
        "mean_squared_error": float(np.square(errors).mean()),
        "mean_absolute_error": float(np.abs(errors).mean()),
        "pearson": _correlate(predicted, labels),
        "spearman": _correlate(_rank(predicted), _rank(labels)),
    }


def _rank(values: np.ndarray) -> np.ndarray:
    """Return ranks from 0: [n] to [n] float64."""
    _, where, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks: np.ndarray = (np.cumsum(counts) - (counts + 1) / 2)[where]
    return ranks


def _correlate(one: np.ndarray, other: np.ndarray) -> float:
    first, second = (values.astype(np.float64) - values.mean(dtype=np.float64) for values in (one, other))
    spread = np.sqrt(first @ first) * np.sqrt(second @ second)
    return float(first @ second / spread) if spread > 0 else 0.0
