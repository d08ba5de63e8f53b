"""Samples that a run leaves out, as ranges of global sample numbers."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class SampleRanges:
    """Disjoint ranges of sample numbers in ascending order; `SampleRanges.of` makes them of any."""

    ranges: tuple[tuple[int, int], ...] = ()
    """Each as (first, end): `end` is the first number behind it."""

    @classmethod
    def of(cls, ranges: Iterable[Iterable[int]]) -> "SampleRanges":
        """Sort ranges and join those that overlap or touch; empty ones are dropped.

        Raises:
            ValueError: one has not two numbers, or is negative, or ends before it begins.
        """
        pairs = []
        for entry in ranges:
            first, end = entry
            if first < 0 or end < first:
                raise ValueError(f"{[first, end]} is no range of samples")
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
        """The part of them that lies before a sample."""
        return SampleRanges.of((first, min(end, sample)) for first, end in self.ranges if first < sample)

    def skip_ranges(self, samples: np.ndarray, *, start: int) -> np.ndarray:
        """Number the samples that remain from `start` on.

        Args:
            samples: int64, any shape; each >= start, counted as if nothing were left out.
        Returns:
            The same shape: the samples that those places have when the ranges are left out.
        """
        numbers = samples.copy()
        for first, end in self.ranges:
            if end > start:
                first = max(first, start)
                numbers[numbers >= first] += end - first
        return numbers

    def to_record(self) -> list[list[int]]:
        """Turn into plain values that JSON can hold; `of` turns them back."""
        return [list(pair) for pair in self.ranges]
