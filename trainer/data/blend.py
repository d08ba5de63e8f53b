"""Choose the data set of each sample: weights as exact proportions, computed for any sample without a table.

Method. The samples 0 .. 2**48 - 1 are one block whose counts are the weights as integers that sum to 2**48. A block
of even length splits into two halves: data set d gives each half count_d / 2 samples; if count_d is odd, one half
gets the odd sample. The odd data sets are even in number, and the half of them that lags most behind its share of
the samples so far gets its odd sample in the left half, the others in the right. Splitting continues down to single
samples.

Since floor(floor(2x) / 2) = floor(x), and the same for ceil, every aligned block of every power-of-two length (samples
i * 2**k to (i + 1) * 2**k) holds floor or ceil of its exact share of each data set: proportions are exact to one
sample in each block, at every scale, and so over the whole run. Looking one sample up walks 48 splits.

Shape letters: n nodes (blocks) of one level, k data sets.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

import numpy as np

PERIOD_BITS = 48
"""Weights are integers out of 2**48: over n samples a data set is off by less than n / 2**48 samples."""
LEAF_BITS = 10
"""Samples are computed in leaves of 2**10 = 1,024, which are cached for the next call."""


@dataclass(frozen=True)
class BlendPlaces:
    """Hold the origins of samples."""

    dataset: np.ndarray
    """[n] int64: number of the data set."""
    local: np.ndarray
    """[n] int64: how many samples of that data set come before this one."""


class Blend:
    """Map sample numbers to data sets and to numbers of samples within them.

    Args:
        weights: one positive number per data set; only their ratios matter.
    """

    def __init__(self, weights: Sequence[float]) -> None:
        self.shares = _integer_shares(weights)
        self._leaf = lru_cache(maxsize=8)(self._lay_out_leaf)

    def locate(self, samples: np.ndarray) -> BlendPlaces:
        """Locate samples.

        Args:
            samples: [n] int64, not negative.
        """
        dataset, local = np.empty_like(samples), np.empty_like(samples)
        leaves = samples >> LEAF_BITS
        for leaf in np.unique(leaves):
            here = np.flatnonzero(leaves == leaf)
            places = self._leaf(int(leaf))
            inside = samples[here] & ((1 << LEAF_BITS) - 1)
            dataset[here], local[here] = places.dataset[inside], places.local[inside]
        return BlendPlaces(dataset, local)

    def counts(self, num_samples: int) -> list[int]:
        """Count how many of the first samples each data set has."""
        inside = num_samples & ((1 << LEAF_BITS) - 1)
        totals, _, _ = self._descend(num_samples >> LEAF_BITS)
        drawn = np.bincount(self._leaf(num_samples >> LEAF_BITS).dataset[:inside], minlength=len(totals))
        return [total + int(extra) for total, extra in zip(totals, drawn, strict=True)]

    def find(self, dataset: int, local: int) -> int:
        """Return the sample that is number `local`, from 0, of a data set's samples: the inverse of `locate`."""
        # Counts are off by less than 2 samples from the exact share; where they were not, the bracket would grow.
        per_sample = (1 << PERIOD_BITS) / self.shares[dataset]
        width = int(3 * per_sample) + 2
        low = high = int(local * per_sample)
        while low > 0 and self.counts(low)[dataset] > local:
            low, width = max(0, low - width), 2 * width
        while self.counts(high)[dataset] <= local:
            high, width = high + width, 2 * width
        while high - low > 1:  # samples before `low` do not contain it, those before `high` do
            middle = (low + high) // 2
            if self.counts(middle)[dataset] > local:
                high = middle
            else:
                low = middle
        return high - 1

    def _descend(self, leaf: int) -> tuple[list[int], list[int], list[int]]:
        """Walk from the whole period down to one leaf.

        Returns:
            Per data set: samples before the leaf, samples in it, and by how much those before fall short of the exact
            share, in units of 2**-48 sample. Python integers: the products do not fit into 64 bits.
        """
        period, leaf = divmod(leaf, 1 << (PERIOD_BITS - LEAF_BITS))
        before, counts, behind = [period * share for share in self.shares], list(self.shares), [0] * len(self.shares)
        for bits in range(PERIOD_BITS - 1, LEAF_BITS - 1, -1):
            halves = [count // 2 for count in counts]
            at_middle = [
                late + (share << bits) - (half << PERIOD_BITS)
                for late, share, half in zip(behind, self.shares, halves, strict=True)
            ]
            odd = sorted((d for d, count in enumerate(counts) if count % 2), key=lambda d: (-at_middle[d], d))
            for d in odd[: len(odd) // 2]:
                halves[d] += 1
                at_middle[d] -= 1 << PERIOD_BITS
            if leaf >> (bits - LEAF_BITS) & 1:
                before = [b + half for b, half in zip(before, halves, strict=True)]
                counts = [count - half for count, half in zip(counts, halves, strict=True)]
                behind = at_middle
            else:
                counts = halves
        return before, counts, behind

    def _lay_out_leaf(self, leaf: int) -> BlendPlaces:
        """Split one leaf down to single samples, all blocks of a level together."""
        before, leaf_counts, leaf_behind = (np.array([row], dtype=np.int64) for row in self._descend(leaf))
        counts, behind = leaf_counts, leaf_behind
        shares = np.array(self.shares, dtype=np.int64)
        for bits in range(LEAF_BITS - 1, -1, -1):
            left = counts // 2
            at_middle = behind + (shares << bits) - (left << PERIOD_BITS)
            is_odd = counts % 2 == 1
            # Odd data sets first, the one that lags most before the others; a stable sort breaks ties by number.
            order = np.argsort(np.where(is_odd, -at_middle, np.iinfo(np.int64).max), axis=1, kind="stable")
            rank = np.argsort(order, axis=1, kind="stable")
            gets_extra = rank < is_odd.sum(axis=1, keepdims=True) // 2
            left += gets_extra
            at_middle -= gets_extra.astype(np.int64) << PERIOD_BITS
            counts = np.stack([left, counts - left], axis=1).reshape(-1, len(shares))
            behind = np.stack([behind, at_middle], axis=1).reshape(-1, len(shares))
        dataset = np.argmax(counts, axis=1)
        rank_in_leaf = np.cumsum(counts, axis=0)[np.arange(len(dataset)), dataset] - 1
        return BlendPlaces(dataset, before[0, dataset] + rank_in_leaf)


def _integer_shares(weights: Sequence[float]) -> tuple[int, ...]:
    """Scale weights to integers that sum to 2**48 (largest remainder; at least 1 each)."""
    if not weights or not all(0 < weight < float("inf") for weight in weights):
        raise ValueError(f"weights must be positive and finite: {list(weights)}")
    exact = [Fraction(weight) for weight in weights]
    quotas = [weight / sum(exact) * (1 << PERIOD_BITS) for weight in exact]
    shares = [max(1, int(quota)) for quota in quotas]
    by_remainder = sorted(range(len(shares)), key=lambda d: (int(quotas[d]) - quotas[d], d))
    missing = (1 << PERIOD_BITS) - sum(shares)
    for d in by_remainder[: max(missing, 0)]:
        shares[d] += 1
    shares[shares.index(max(shares))] += min(missing, 0)
    return tuple(shares)
