"""Compute confidence intervals of figures over clusters of related items.

n: items, c: clusters, k: sums that a figure is made of, r: resamples.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

NUM_RESAMPLES = 4000
"""The ends of a 95 % interval then vary by about 0.03 of its width from seed to seed."""
MIN_CLUSTERS = 10
"""Below this no conclusion is drawn: few clusters underestimate their spread, so the interval is too narrow."""
_RESAMPLES_AT_ONCE = 250
_NUM_PARTS = NUM_RESAMPLES // _RESAMPLES_AT_ONCE
_Z = 1.959963984540054
"""97.5 % quantile of the normal distribution."""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """Hold a measured figure with its 95 % interval."""

    name: str
    subset: str
    """`all`, or the category, language or group that it is about."""
    value: float
    """NaN where it is undefined, as a share of no items is."""
    low: float
    high: float
    """Ends of the interval; NaN where there are less than two clusters."""
    neutral: float | None
    """The value of a model without this bias; None where there is none, such as for an accuracy."""
    num_items: int
    num_clusters: int
    method: str
    """`wilson` or `bootstrap`."""

    @property
    def is_biased(self) -> bool | None:
        """Return whether the interval excludes the neutral value; None without one, or with too few clusters."""
        if self.neutral is None or np.isnan(self.low) or self.num_clusters < MIN_CLUSTERS:
            return None
        return not self.low <= self.neutral <= self.high


def share(
    hits: Sequence[float], clusters: Sequence[str], *, name: str, subset: str = "all", neutral: float | None = None
) -> Figure:
    """Return the share of hits, with Wilson's interval for the effective number of items.

    That number is p (1 - p) / variance, where the variance is the one between clusters; at most the number of items,
    and the number of clusters where all items agree. Without clusters of several items it is Wilson's interval itself.

    Args:
        hits: n values from 0 to 1; a half is a tie.
    Source: Wilson 1927; Franco et al. 2019 (PMC6690503) for clusters.
    """
    values = np.asarray(hits, dtype=np.float64)
    sizes, sums = _sum_clusters(np.stack([np.ones_like(values), values], axis=1), clusters).T
    n, c = len(values), len(sizes)
    if c < 2:
        mean = float(values.mean()) if n else float("nan")
        return _figure(name, subset, mean, (np.nan, np.nan), neutral, n, c, "wilson")
    p = float(values.mean())
    # Of a ratio of two sums over clusters.
    variance = c / (c - 1) * float(np.square(sums - p * sizes).sum()) / n**2
    effective = float(c) if variance == 0 or p in (0.0, 1.0) else min(n, p * (1 - p) / variance)
    effective = n if c == n else effective
    center = (p + _Z**2 / (2 * effective)) / (1 + _Z**2 / effective)
    half = _Z / (1 + _Z**2 / effective) * np.sqrt(p * (1 - p) / effective + _Z**2 / (4 * effective**2))
    # At 0 and 1 rounding would leave the value outside.
    bounds = (min(p, max(0.0, center - half)), max(p, min(1.0, center + half)))
    return _figure(name, subset, p, bounds, neutral, n, c, "wilson")


def bootstrap(
    parts: np.ndarray,
    clusters: Sequence[str],
    statistic: Callable[[np.ndarray], np.ndarray],
    *,
    name: str,
    seed: int,
    subset: str = "all",
    neutral: float | None = None,
    num_items: int | None = None,
) -> Figure:
    """Return a figure with the percentile interval of resampled clusters.

    Args:
        parts: [n, k] what each item adds to the sums that the figure is made of.
        clusters: n names.
        statistic: [r, k] sums to [r] figures; NaN where one is undefined, and such resamples are left out.
        seed: of the resamples.
        num_items: where not all items count.
    Source: Efron 1979; Davison and Hinkley 1997, section 3.8, for clusters.
    """
    sums = _sum_clusters(np.asarray(parts, dtype=np.float64), clusters)
    c = len(sums)
    n = len(parts) if num_items is None else num_items
    with np.errstate(divide="ignore", invalid="ignore"):
        value = float(statistic(sums.sum(axis=0, keepdims=True))[0])
        if c < 2 or np.isnan(value):
            return _figure(name, subset, value, (np.nan, np.nan), neutral, n, c, "bootstrap")
        generator, shares = np.random.default_rng(seed), np.full(c, 1 / c)
        # In parts: thousands of clusters would fill the memory.
        resampled = [generator.multinomial(c, shares, size=_RESAMPLES_AT_ONCE) @ sums for _ in range(_NUM_PARTS)]
        values = statistic(np.concatenate(resampled))
    low, high = np.nanpercentile(values, [2.5, 97.5])
    return _figure(name, subset, value, (low, high), neutral, n, c, "bootstrap")


def mean_of(sums: np.ndarray) -> np.ndarray:
    """Return the mean from the number of items and the sum of values: [r, 2] to [r]."""
    return np.asarray(sums[:, 1] / sums[:, 0])


def _sum_clusters(parts: np.ndarray, clusters: Sequence[str]) -> np.ndarray:
    """Return [c, k] sums of [n, k] parts; clusters are in the order in which they first occur."""
    assert len(parts) == len(clusters)
    numbers: dict[str, int] = {}
    where = np.array([numbers.setdefault(cluster, len(numbers)) for cluster in clusters], dtype=np.int64)
    sums = np.zeros((len(numbers), parts.shape[1]))
    np.add.at(sums, where, parts)
    return sums


def _figure(
    name: str,
    subset: str,
    value: float,
    bounds: tuple[float, float],
    neutral: float | None,
    num_items: int,
    num_clusters: int,
    method: str,
) -> Figure:
    return Figure(
        name=name,
        subset=subset,
        value=value,
        low=float(bounds[0]),
        high=float(bounds[1]),
        neutral=neutral,
        num_items=num_items,
        num_clusters=num_clusters,
        method=method,
    )
