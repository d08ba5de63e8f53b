"""Geometry of figures: parts fill their room, histograms of different ranges lie over each other."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_tools.output.stats import LengthHistogram
from data_tools.report.figures import MAX_GRID_LINES, build_histogram, stack


def histogram_of(lengths: list[int]) -> dict[str, list[int]]:
    histogram = LengthHistogram()
    histogram.add(np.array(lengths, np.int64))
    return histogram.to_dict()


def test_parts_stand_end_to_end() -> None:
    segments = stack({"train": 30, "validation": 0, "dropped": 50, "failed": 20}, room=200)
    assert [(each.kind, each.count, each.start, each.width) for each in segments] == [
        ("train", 30, 0.0, 15.0),
        ("dropped", 50, 15.0, 25.0),
        ("failed", 20, 40.0, 10.0),
    ]
    assert stack({"train": 0}, room=0) == []


@given(st.lists(st.integers(0, 10**9), min_size=1), st.lists(st.integers(0, 10**9)))
def test_every_document_is_in_the_bin_of_its_length(train: list[int], validation: list[int]) -> None:
    histograms = {"train": histogram_of(train), "validation": histogram_of(validation)}
    figure = build_histogram(histograms, unit="tokens")
    assert figure is not None
    assert figure.medians.keys() == ({"train", "validation"} if validation else {"train"})
    for split, lengths in (("train", train), ("validation", validation)):
        if not lengths:
            continue
        for each in figure.bins:
            expected = sum(each.first <= length <= each.last for length in lengths)
            assert each.counts[split] == expected
            tallest = figure.y_ticks[-1].position
            assert 0 <= each.heights[split] <= tallest + 1e-6
        median = sorted(lengths)[(len(lengths) - 1) // 2]
        assert figure.medians[split].first <= median <= figure.medians[split].last
    assert sum(each.width for each in figure.bins) == pytest.approx(100)
    assert 1 <= len(figure.y_ticks) <= MAX_GRID_LINES + 1
    assert figure.y_ticks[-1].position == pytest.approx(100)
    assert all(-1e-9 <= tick.position <= 100 + 1e-9 for tick in figure.x_ticks)


def test_heights_are_shares_of_a_split() -> None:
    figure = build_histogram(
        {"train": histogram_of([150] * 3 + [15]), "validation": histogram_of([150])}, unit="tokens"
    )
    assert figure is not None
    last = figure.bins[-1]
    assert (last.first, last.last) == (126, 157)
    assert last.counts == {"train": 3, "validation": 1}
    assert last.heights["train"] == pytest.approx(0.75 * last.heights["validation"])
    assert [tick.label for tick in figure.y_ticks] == ["50%", "100%"]


def test_ticks_are_round_numbers() -> None:
    wide = build_histogram({"train": histogram_of([10, 100_000])}, unit="tokens")
    narrow = build_histogram({"train": histogram_of([300, 20_000])}, unit="tokens")
    assert wide is not None
    assert narrow is not None
    assert [tick.label for tick in wide.x_ticks] == ["10", "100", "1k", "10k", "100k"]
    assert [tick.label for tick in narrow.x_ticks] == ["500", "1k", "2k", "5k", "10k", "20k"]
    assert build_histogram({"train": histogram_of([])}, unit="tokens") is None
