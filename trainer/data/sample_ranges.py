"""Represent the samples that a run skips, as ranges of global sample numbers."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class SampleRanges:
    """Hold disjoint ranges of sample numbers in ascending order; `SampleRanges.of` builds them from any ranges."""

    ranges: tuple[tuple[int, int], ...] = ()
    """Each as (first, end): `end` is one past its last number."""

    @classmethod
    def of(cls, ranges: Iterable[Iterable[int]]) -> "SampleRanges":
        """Sort ranges and join those that overlap or touch; empty ones are dropped.

        Raises:
            ValueError: a range does not have two numbers, is negative, or ends before it begins.
        """
        pairs = []
        for entry in ranges:
            first, end = entry
            if first < 0 or end < first:
                raise ValueError(f"{[first, end]} is not a valid range of samples")
            if first < end:
                pairs.append((first, end))
        joined: list[tuple[int, int]] = []
        for first, end in sorted(pairs):
            if joined and first <= joined[-1][1]:
                joined[-1] = (joined[-1][0], max(joined[-1][1], end))
            else:
                joined.append((first, end))
        return cls(tuple(joined))

    def __or__(self, other: "SampleRanges") -> "SampleRanges":
        return SampleRanges.of([*self.ranges, *other.ranges])

    def before(self, sample: int) -> "SampleRanges":
        """Return the parts before a sample."""
        return SampleRanges.of((first, min(end, sample)) for first, end in self.ranges if first < sample)

    def skip_ranges(self, samples: np.ndarray, *, start: int) -> np.ndarray:
        """Map positions in the remaining samples to sample numbers, skipping the ranges from `start` on.

        Args:
            samples: int64, any shape; each >= start, counted as if nothing were skipped.
        Returns:
            The same shape: the numbers of the samples at those positions.
        """
        numbers = samples.copy()
        for first, end in self.ranges:
            if end > start:
                first = max(first, start)
                numbers[numbers >= first] += end - first
        return numbers

    def to_record(self) -> list[list[int]]:
        """Return plain values that JSON can hold; `of` restores them."""
        return [list(pair) for pair in self.ranges]
