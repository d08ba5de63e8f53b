"""The keyed permutation: a bijection for any size, and as even as a shuffle."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.data.permutation import MAX_SIZE, derive_key, find_places, permute

seeds = st.integers(-(2**63), 2**63 - 1)


def _key(seed: int = 1, stream: int = 0, epoch: int = 0) -> np.ndarray:
    return derive_key(seed=seed, stream=stream, epoch=epoch)


@given(size=st.integers(1, 3000), seed=seeds)
def test_is_a_bijection(size: int, seed: int) -> None:
    shuffled = permute(np.arange(size), size=size, key=_key(seed))
    np.testing.assert_array_equal(np.sort(shuffled), np.arange(size))


def test_is_a_bijection_on_every_small_size() -> None:
    for size in range(1, 300):
        shuffled = permute(np.arange(size), size=size, key=_key(size))
        np.testing.assert_array_equal(np.sort(shuffled), np.arange(size))


@given(size=st.integers(2, MAX_SIZE), seed=seeds, data=st.data())
def test_distinct_places_stay_distinct_and_inside_at_any_size(size: int, seed: int, data: st.DataObject) -> None:
    places = data.draw(st.lists(st.integers(0, size - 1), min_size=2, max_size=50, unique=True))
    found = permute(np.array(places), size=size, key=_key(seed))
    assert found.dtype == np.int64
    assert found.min() >= 0 and found.max() < size
    assert len(set(found.tolist())) == len(places)


@given(size=st.integers(1, MAX_SIZE), seed=seeds, data=st.data())
def test_places_are_found_again_at_any_size(size: int, seed: int, data: st.DataObject) -> None:
    places = np.array(data.draw(st.lists(st.integers(0, size - 1), max_size=50)), dtype=np.int64)
    elements = permute(places, size=size, key=_key(seed))
    np.testing.assert_array_equal(find_places(elements, size=size, key=_key(seed)), places)


def test_looking_up_one_by_one_is_looking_up_together() -> None:
    places = np.arange(40).reshape(5, 8)
    together = permute(places, size=997, key=_key())
    one_by_one = [[int(permute(np.array(place), size=997, key=_key())) for place in row] for row in places]
    np.testing.assert_array_equal(together, one_by_one)


def test_order_never_changes_between_versions() -> None:
    """A run that resumes under a newer version must go on in the same order."""
    found = permute(np.arange(8), size=1000, key=_key(1234, 2, 3))
    assert found.tolist() == [942, 697, 974, 724, 392, 752, 446, 290]


@pytest.mark.parametrize("other", [{"seed": 2}, {"stream": 1}, {"epoch": 1}, {"seed": -1}])
def test_each_part_of_the_key_gives_an_unrelated_order(other: dict[str, int]) -> None:
    size = 5000
    first = permute(np.arange(size), size=size, key=_key())
    second = permute(np.arange(size), size=size, key=_key(**other))
    # Fixed points of two unrelated orders are Poisson distributed with mean 1.
    assert (first == second).sum() < 10
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.06


def _chi_square(observed: np.ndarray, expected: float) -> float:
    """In standard deviations from its mean: about normal for many cells."""
    cells = observed.size
    return float((((observed - expected) ** 2 / expected).sum() - (cells - 1)) / np.sqrt(2 * (cells - 1)))


@pytest.mark.parametrize("size", [4096, 5000, 99991])
def test_a_stretch_of_the_order_is_spread_evenly(size: int) -> None:
    """Each tenth of the order holds each tenth of the windows evenly, over 50 keys."""
    counts = np.zeros((10, 10))
    for seed in range(50):
        shuffled = permute(np.arange(size), size=size, key=_key(seed))
        np.add.at(counts, (np.arange(size) * 10 // size, shuffled * 10 // size), 1)
    # Rows and columns are fixed by bijectivity, so cells vary less than independent draws do: only excess fails.
    assert _chi_square(counts, counts.mean()) < 4


@pytest.mark.parametrize("size", [4096, 99991, 10**12])
def test_neighbours_are_unrelated(size: int) -> None:
    """The step from one element to the next is spread evenly over the circle of windows."""
    shuffled = permute(np.arange(4096), size=size, key=_key(7))
    steps = (shuffled[1:] - shuffled[:-1]) % size
    counts = np.bincount(steps * 64 // size, minlength=64)
    assert abs(_chi_square(counts, len(steps) / 64)) < 4


def test_all_orders_of_four_are_equally_likely() -> None:
    orders = [tuple(permute(np.arange(4), size=4, key=_key(seed)).tolist()) for seed in range(4800)]
    _, counts = np.unique(np.array(orders), axis=0, return_counts=True)
    assert len(counts) == 24
    assert abs(_chi_square(counts, 200)) < 4


@pytest.mark.parametrize(("place", "size"), [(-1, 10), (10, 10), (0, 0), (0, MAX_SIZE + 1)])
def test_out_of_range(place: int, size: int) -> None:
    with pytest.raises(ValueError, match="not in"):
        permute(np.array([place]), size=size, key=_key())
