"""Changing data sets and weights at a resume: nothing is repeated, nothing skipped."""

import json
from collections.abc import Sequence

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from trainer.data.mixture import DatasetIdentity, Mixture, continue_mixture
from trainer.data.sampler import SampleOrder

WINDOWS = {"a": 50, "b": 30, "c": 20, "d": 7}


def _named(names: Sequence[str]) -> list[DatasetIdentity]:
    return [DatasetIdentity(content=name) for name in names]


def _start(names: Sequence[str], weights: Sequence[float]) -> Mixture:
    return continue_mixture(_named(names), weights=weights, former=None, consumed_samples=0)


def _draw(mixture: Mixture, names: Sequence[str], start: int, end: int) -> list[tuple[str, int, int]]:
    order = SampleOrder(mixture, num_windows=[WINDOWS[name] for name in names], seed=1)
    found = order.locate(np.arange(start, end))
    pairs = zip(found.dataset.tolist(), found.epoch.tolist(), found.window.tolist(), strict=True)
    return [(names[d], epoch, window) for d, epoch, window in pairs]


def test_an_unchanged_mixture_is_the_former_one() -> None:
    former = _start("ab", [3, 1])
    assert continue_mixture(_named("ab"), weights=[0.75, 0.25], former=former, consumed_samples=100) == former


def test_the_record_is_json_and_comes_back_equal() -> None:
    mixture = continue_mixture(_named("cb"), weights=[1, 2], former=_start("ab", [3, 1]), consumed_samples=100)
    assert Mixture.from_record(json.loads(json.dumps(mixture.to_record()))) == mixture


segments = st.lists(
    st.tuples(
        st.lists(st.sampled_from("abcd"), min_size=1, max_size=4, unique=True),
        st.lists(st.floats(0.1, 10), min_size=4, max_size=4),
        st.integers(0, 70),
    ),
    min_size=1,
    max_size=6,
)


@given(segments=segments)
def test_each_data_set_goes_on_where_it_was_over_any_changes(
    segments: list[tuple[list[str], list[float], int]],
) -> None:
    former, consumed, drawn = None, 0, []
    for names, weights, num_samples in segments:
        mixture = continue_mixture(
            _named(names), weights=weights[: len(names)], former=former, consumed_samples=consumed
        )
        drawn += _draw(mixture, names, consumed, consumed + num_samples)
        consumed += num_samples
        former = Mixture.from_record(mixture.to_record())
    assert len(set(drawn)) == len(drawn)
    for name, size in WINDOWS.items():
        mine = [(epoch, window) for other, epoch, window in drawn if other == name]
        # Every epoch but the last is whole, so nothing was skipped either.
        epochs = [epoch for epoch, _ in mine]
        assert epochs == sorted(epochs)
        for epoch in range(len(mine) // size):
            assert sorted(window for e, window in mine if e == epoch) == list(range(size))


def test_the_new_weights_hold_from_the_change_on() -> None:
    mixture = continue_mixture(_named("ab"), weights=[1, 3], former=_start("ab", [3, 1]), consumed_samples=1000)
    names = [name for name, _, _ in _draw(mixture, "ab", 1000, 1400)]
    assert names.count("b") == 300


def test_a_data_set_that_comes_back_has_kept_its_place_and_order() -> None:
    both = _start("ab", [1, 1])
    without = continue_mixture(_named("a"), weights=[1], former=both, consumed_samples=20)
    again = continue_mixture(_named("ba"), weights=[1, 1], former=without, consumed_samples=40)
    assert [entry.drawn for entry in again.active] == [10, 30]
    assert [entry.stream for entry in again.active] == [1, 0]


def test_the_same_data_set_twice_has_two_orders() -> None:
    mixture = _start("aa", [1, 1])
    changed = continue_mixture(_named("aa"), weights=[1, 3], former=mixture, consumed_samples=10)
    assert [entry.stream for entry in changed.active] == [0, 1]
    assert [entry.drawn for entry in changed.active] == [5, 5]
