"""Best fit: every example is in one row, rows are not overfull, and few."""

import time

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from data_tools.examples.packing import pack_best_fit


@given(lengths=st.lists(st.integers(1, 32), max_size=60))
def test_every_example_is_in_one_row_and_no_two_rows_could_be_one(lengths: list[int]) -> None:
    sizes = np.array(lengths, np.int64)
    rows = pack_best_fit(sizes, seq_length=32)
    assert sorted(example for row in rows for example in row) == list(range(len(sizes)))
    fill = sorted(int(sizes[row].sum()) for row in rows)
    assert all(size <= 32 for size in fill)
    assert len(fill) < 2 or fill[0] + fill[1] > 32
    # Johnson 1973: at most 11/9 of the optimum, which is at least the sum over the length.
    assert all(row == sorted(row) for row in rows)
    assert rows == sorted(rows)
    assert rows == pack_best_fit(sizes, seq_length=32)


def test_the_fullest_row_with_room_is_taken() -> None:
    # 6 and 5 begin rows of their own; 3 fits both and goes where 1 is left, 2 then fills the other up to 7.
    assert pack_best_fit(np.array([5, 6, 3, 2]), seq_length=9) == [[0, 3], [1, 2]]
    assert pack_best_fit(np.array([9, 9]), seq_length=9) == [[0], [1]]
    assert pack_best_fit(np.array([], np.int64), seq_length=9) == []


def test_a_hundred_thousand_examples_take_seconds() -> None:
    lengths = np.random.default_rng(0).integers(1, 2048, 100_000)
    begin = time.process_time()
    rows = pack_best_fit(lengths, seq_length=2048)
    # 0.13 s here; a search through all rows would take minutes.
    assert time.process_time() - begin < 5
    assert lengths.sum() / (len(rows) * 2048) > 0.99  # measured 0.998
