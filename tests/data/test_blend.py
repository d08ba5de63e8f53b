"""Blending: proportions exact to one sample in every aligned block, and every look-up consistent."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.data.blend import LEAF_BITS, PERIOD_BITS, Blend

weights_lists = st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=12)
LEAF = 1 << LEAF_BITS


def _exact(weights: list[float]) -> list[Fraction]:
    total = sum(Fraction(weight) for weight in weights)
    return [Fraction(weight) / total for weight in weights]


@given(weights=weights_lists, block_bits=st.integers(0, 14), block=st.integers(0, 2**30))
def test_each_aligned_block_is_exact_to_one_sample(weights: list[float], block_bits: int, block: int) -> None:
    blend, length = Blend(weights), 1 << block_bits
    places = blend.locate(np.arange(block * length, (block + 1) * length))
    counts = np.bincount(places.dataset, minlength=len(weights))
    for count, share in zip(counts.tolist(), _exact(weights), strict=True):
        # Weights are integers out of 2**48, so a block of 2**14 is off by at most 2**-34 more.
        assert abs(count - share * length) < 1 + Fraction(1, 2**30)


@given(weights=weights_lists, num_samples=st.integers(0, 2**44))
def test_each_prefix_is_exact_to_two_samples(weights: list[float], num_samples: int) -> None:
    """Of all prefixes; those that end on a large power of two are exact to one. In practice 1.1 was the most seen."""
    counts = Blend(weights).counts(num_samples)
    assert sum(counts) == num_samples
    for count, share in zip(counts, _exact(weights), strict=True):
        assert abs(count - share * num_samples) < 2


@given(weights=weights_lists, start=st.integers(0, 2**50))
def test_local_numbers_count_the_data_sets_samples(weights: list[float], start: int) -> None:
    """Within each data set the local numbers go on one by one from what `counts` says was drawn before."""
    blend = Blend(weights)
    places = blend.locate(np.arange(start, start + 3 * LEAF // 2))
    before = blend.counts(start)
    for d in range(len(weights)):
        local = places.local[places.dataset == d]
        np.testing.assert_array_equal(local, np.arange(before[d], before[d] + len(local)))
    after = np.array(before) + np.bincount(places.dataset, minlength=len(weights))
    assert blend.counts(start + 3 * LEAF // 2) == after.tolist()


@given(weights=weights_lists, samples=st.lists(st.integers(0, 2**40), min_size=1, max_size=20))
def test_any_sample_can_be_looked_up_alone(weights: list[float], samples: list[int]) -> None:
    blend = Blend(weights)
    together = blend.locate(np.array(samples))
    for i, sample in enumerate(samples):
        alone = Blend(weights).locate(np.array([sample]))
        assert (alone.dataset[0], alone.local[0]) == (together.dataset[i], together.local[i])


@given(weights=weights_lists, sample=st.integers(0, 10**13))
def test_a_sample_is_found_by_its_data_set_and_number(weights: list[float], sample: int) -> None:
    blend = Blend(weights)
    places = blend.locate(np.array([sample]))
    assert blend.find(int(places.dataset[0]), int(places.local[0])) == sample


def test_one_data_set_keeps_its_numbers() -> None:
    samples = np.array([0, 1, 5, LEAF, 2**40 + 3, 2**PERIOD_BITS + 7])
    places = Blend([0.3]).locate(samples)
    np.testing.assert_array_equal(places.local, samples)
    assert not places.dataset.any()


def test_common_weights_repeat_an_even_pattern() -> None:
    places = Blend([0.5, 0.25, 0.25]).locate(np.arange(64))
    for start in range(0, 64, 4):
        assert np.bincount(places.dataset[start : start + 4]).tolist() == [2, 1, 1]


def test_irrational_weights_stay_exact_over_a_trillion_samples() -> None:
    weights = [np.pi, np.e, np.sqrt(2)]
    counts = Blend(weights).counts(10**12)
    for count, share in zip(counts, _exact(weights), strict=True):
        assert abs(count - share * 10**12) < 1


def test_only_ratios_count() -> None:
    assert Blend([3, 1]).shares == Blend([0.75, 0.25]).shares == Blend([3e9, 1e9]).shares


def test_tiny_weights_get_their_turn() -> None:
    blend = Blend([1.0, 1e-30, 1e-30])
    assert sum(blend.shares) == 2**PERIOD_BITS
    assert blend.counts(2**PERIOD_BITS) == [2**PERIOD_BITS - 2, 1, 1]


@pytest.mark.parametrize("weights", [[], [0.0, 1.0], [-1.0], [float("inf")], [float("nan")]])
def test_bad_weights(weights: list[float]) -> None:
    with pytest.raises(ValueError, match="positive and finite"):
        Blend(weights)


def test_order_never_changes_between_versions() -> None:
    """A run that resumes under a newer version must go on in the same order."""
    places = Blend([0.6, 0.3, 0.1]).locate(np.arange(20))
    assert "".join(map(str, places.dataset)) == "01020100100102010010"
