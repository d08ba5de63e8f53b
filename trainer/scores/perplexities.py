"""Compare the perplexities of two models on the same rows, with confidence intervals.

n: rows.
"""

import math
from dataclasses import dataclass

import numpy as np

from trainer.scores.bootstrap import ratio_interval


@dataclass(frozen=True, kw_only=True)
class Interval:
    """Hold a figure with the ends of its 95 % confidence interval."""

    value: float
    low: float | None
    """None with fewer than two rows."""
    high: float | None


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Hold the perplexities of two models on the same rows."""

    before: Interval
    after: Interval
    ratio: Interval
    """After divided by before. Its interval is narrower than those of the two: both models read the same rows."""
    num_rows: int
    num_tokens: int


def compare_perplexities(before: np.ndarray, after: np.ndarray, *, num_tokens: np.ndarray) -> Comparison:
    """Compare two models, with intervals from a bootstrap over rows.

    Args:
        before, after: [n] sums of losses over the target tokens of each row, in nats.
        num_tokens: [n] target tokens; their sum is positive.
    """
    return Comparison(
        before=_perplexity(before, num_tokens),
        after=_perplexity(after, num_tokens),
        ratio=_perplexity(after - before, num_tokens),
        num_rows=len(before),
        num_tokens=round(float(num_tokens.sum())),
    )


def _perplexity(losses: np.ndarray, num_tokens: np.ndarray) -> Interval:
    ends = ratio_interval(losses, num_tokens, seed=0)
    low, high = (None if math.isnan(end) else _exp(end) for end in ends)
    return Interval(value=_exp(float(losses.sum() / num_tokens.sum())), low=low, high=high)


def _exp(loss: float) -> float:
    return math.exp(min(loss, 700.0))
