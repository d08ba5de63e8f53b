"""Ranges of samples: joined, cut, and stepped over."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.data.sample_ranges import SampleRanges

pairs = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 20)).map(lambda pair: (pair[0], sum(pair))), max_size=6)


def members(ranges: SampleRanges) -> set[int]:
    return {sample for first, end in ranges.ranges for sample in range(first, end)}


@given(one=pairs, other=pairs, cut=st.integers(0, 80))
def test_ranges_hold_what_they_were_made_of(one: list[tuple[int, int]], other: list[tuple[int, int]], cut: int) -> None:
    ranges = SampleRanges.of(one)
    assert members(ranges) == {sample for first, end in one for sample in range(first, end)}
    assert all(end < first for (_, end), (first, _) in zip(ranges.ranges, ranges.ranges[1:], strict=False))
    assert members(ranges | SampleRanges.of(other)) == members(ranges) | members(SampleRanges.of(other))
    assert members(ranges.before(cut)) == {sample for sample in members(ranges) if sample < cut}
    assert SampleRanges.of(ranges.to_record()) == ranges


@given(ranges=pairs, start=st.integers(0, 50))
def test_stepping_over_gives_the_samples_that_remain(ranges: list[tuple[int, int]], start: int) -> None:
    skipped_samples = SampleRanges.of(ranges)
    remaining = [sample for sample in range(start, 400) if sample not in members(skipped_samples)][:40]
    places = np.arange(start, start + 40)
    assert skipped_samples.skip_ranges(places, start=start).tolist() == remaining
    assert skipped_samples.skip_ranges(places.reshape(5, 8), start=start).shape == (5, 8)


@pytest.mark.parametrize("bad", [[(3, 2)], [(-1, 2)], [(1, 2, 3)], [(1,)]])
def test_what_is_no_range(bad: list) -> None:
    with pytest.raises(ValueError):
        SampleRanges.of(bad)
