"""The order of samples: each once an epoch, whatever the layout and however it changes between steps."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.data.mixture import DatasetIdentity, continue_mixture
from trainer.data.sampler import SampleOrder, sample_ids


def _order(num_windows: list[int], weights: list[float] | None = None, seed: int = 1) -> SampleOrder:
    names = [str(d) for d in range(len(num_windows))]
    weights = weights or [1.0] * len(names)
    identities = [DatasetIdentity(content=name) for name in names]
    mixture = continue_mixture(identities, weights=weights, former=None, consumed_samples=0)
    return SampleOrder(mixture, num_windows=num_windows, seed=seed)


layouts = st.tuples(st.sampled_from([1, 2, 3, 4, 6, 8]), st.integers(1, 4), st.integers(1, 4))
"""dp_size, micro_batch_size, num_microbatches."""


def _step(consumed: int, dp_size: int, micro_batch_size: int, num_microbatches: int) -> list[np.ndarray]:
    return [
        sample_ids(
            consumed_samples=consumed,
            dp_rank=dp_rank,
            dp_size=dp_size,
            micro_batch_size=micro_batch_size,
            num_microbatches=num_microbatches,
        )
        for dp_rank in range(dp_size)
    ]


def test_micro_batches_of_a_step() -> None:
    first, second = _step(100, 2, 3, 2)
    assert first.tolist() == [[100, 101, 102], [106, 107, 108]]
    assert second.tolist() == [[103, 104, 105], [109, 110, 111]]


@given(steps=st.lists(layouts, min_size=1, max_size=10), size=st.integers(1, 60), seed=st.integers(0, 2**32))
def test_each_sample_once_an_epoch_for_any_switch_of_layout(
    steps: list[tuple[int, int, int]], size: int, seed: int
) -> None:
    order, consumed, read = _order([size], seed=seed), 0, []
    for layout in steps:
        parts = _step(consumed, *layout)
        samples = np.concatenate([part.ravel() for part in parts])
        consumed += samples.size
        assert sorted(samples.tolist()) == list(range(consumed - samples.size, consumed))
        found = order.locate(samples)
        read += list(zip(found.epoch.tolist(), found.window.tolist(), strict=True))
    assert len(set(read)) == len(read)
    for epoch in range(consumed // size):
        assert sorted(window for e, window in read if e == epoch) == list(range(size))


@given(one=layouts, other=layouts)
def test_the_order_does_not_depend_on_the_layout(one: tuple[int, int, int], other: tuple[int, int, int]) -> None:
    """Samples of both layouts, sorted by their number, are the same windows as far as both go."""

    def windows(layout: tuple[int, int, int]) -> np.ndarray:
        order = _order([97, 41], [0.7, 0.3])
        parts = np.concatenate(
            [part.ravel() for step in range(4) for part in _step(step * int(np.prod(layout)), *layout)]
        )
        found = order.locate(parts)
        by_number = np.argsort(parts)
        return np.stack([found.dataset, found.epoch, found.window])[:, by_number]

    first, second = windows(one), windows(other)
    common = min(first.shape[1], second.shape[1])
    np.testing.assert_array_equal(first[:, :common], second[:, :common])


@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=4),
    weights=st.lists(st.floats(0.05, 20), min_size=4, max_size=4),
)
def test_each_data_set_of_a_blend_is_drawn_whole_before_it_repeats(sizes: list[int], weights: list[float]) -> None:
    found = _order(sizes, weights[: len(sizes)]).locate(np.arange(300))
    for d, size in enumerate(sizes):
        mine = found.window[found.dataset == d]
        for start in range(0, len(mine) - size + 1, size):
            assert sorted(mine[start : start + size].tolist()) == list(range(size))
        np.testing.assert_array_equal(found.epoch[found.dataset == d], np.arange(len(mine)) // size)


def test_epochs_and_data_sets_have_their_own_orders() -> None:
    found = _order([50, 50]).locate(np.arange(200))
    orders = {tuple(found.window[(found.dataset == d) & (found.epoch == e)].tolist()) for d in (0, 1) for e in (0, 1)}
    assert len(orders) == 4


def test_no_samples() -> None:
    assert _order([5]).locate(np.arange(0)).window.shape == (0,)


def test_samples_before_a_change_of_mixture_are_refused() -> None:
    former = continue_mixture([DatasetIdentity(content="a")], weights=[1], former=None, consumed_samples=0)
    mixture = continue_mixture([DatasetIdentity(content="b")], weights=[1], former=former, consumed_samples=10)
    order = SampleOrder(mixture, num_windows=[5], seed=1)
    with pytest.raises(ValueError, match="older than this mixture"):
        order.locate(np.array([9]))
