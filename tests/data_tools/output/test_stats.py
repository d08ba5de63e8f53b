"""Counts by language and histograms of lengths: exact, and the same however the documents are cut into batches."""

import json
from collections import Counter

import numpy as np
import pytest

from data_tools.output.stats import EDGES, LengthHistogram, SplitResult, SplitStatistics, build_stats


def make_documents(count: int) -> list[tuple[str, int, int, int]]:
    """Language, tokens, characters and bytes of each."""
    random = np.random.default_rng(7)
    lengths = np.exp(random.uniform(0, 14, count)).astype(int)
    return [(["en", "zh", "", "ar"][int(n) % 4], max(1, int(n) // 4), int(n), int(n) * 3) for n in lengths]


def accumulate(documents: list[tuple[str, int, int, int]], *, batch: int) -> SplitStatistics:
    statistics = SplitStatistics()
    for first in range(0, len(documents), batch):
        languages, tokens, characters, sizes = zip(*documents[first : first + batch], strict=True)
        statistics.add(languages, num_tokens=tokens, num_characters=np.array(characters), num_bytes=sizes)
    statistics.add([], num_tokens=[], num_characters=[], num_bytes=[])
    return statistics


def test_counts_are_those_of_a_simple_loop_in_any_batches() -> None:
    documents = make_documents(1000)
    found = accumulate(documents, batch=7).to_dict()
    assert found == accumulate(documents, batch=1000).to_dict()
    assert json.loads(json.dumps(found)) == found, "plain values"
    assert list(found["languages"]) == ["", "ar", "en", "zh"]
    for name, counts in found["languages"].items():
        mine = [document for document in documents if document[0] == name]
        assert counts == {
            "num_documents": len(mine),
            "num_tokens": sum(tokens for _, tokens, _, _ in mine),
            "num_characters": sum(characters for _, _, characters, _ in mine),
            "text_bytes": sum(size for _, _, _, size in mine),
        }
    assert found["num_characters"] == sum(characters for _, _, characters, _ in documents)
    for place, name in ((1, "tokens"), (2, "characters")):
        histogram = found["lengths"][name]
        edges = histogram["edges"]
        expected = Counter(
            next(bin for bin in range(len(edges) - 1) if edges[bin] <= document[place] < edges[bin + 1])
            for document in documents
        )
        assert histogram["counts"] == [expected[bin] for bin in range(len(edges) - 1)]
        assert histogram["counts"][0]
        assert histogram["counts"][-1]


@pytest.mark.parametrize("length", [0, 1, 9, 10, 99, 100, 1000, 10**6, 10**9, 10**12 - 1])
def test_powers_of_ten_are_edges(length: int) -> None:
    histogram = LengthHistogram()
    histogram.add(np.array([length]))
    found = histogram.to_dict()
    assert found["counts"] == [1]
    assert found["edges"][0] <= length < found["edges"][1]
    if length and length == 10 ** (len(str(length)) - 1):
        assert found["edges"][0] == length


def test_edges_grow_and_nothing_is_an_empty_histogram() -> None:
    assert (np.diff(EDGES) > 0).all()
    assert EDGES[:6].tolist() == [0, 1, 2, 3, 4, 5]
    assert [edge for edge in EDGES if 100 <= edge <= 1000] == [100, 126, 158, 200, 251, 316, 398, 501, 631, 794, 1000]
    assert LengthHistogram().to_dict() == {"edges": [], "counts": []}
    assert SplitStatistics().to_dict()["languages"] == {}


def test_stats_tell_them_where_there_are_any() -> None:
    documents = make_documents(20)
    results = {
        name: SplitResult(dtype="uint16", token_counts=np.array([0, 3, 1]), num_documents=2, num_tokens=4, text_bytes=8)
        for name in ("train", "validation")
    }
    without = build_stats(results, unknown_id=0)
    statistics = accumulate(documents, batch=20)
    found = build_stats(results, unknown_id=0, statistics={"train": statistics})
    assert found["validation"] == without["validation"]
    assert found["train"] == without["train"] | statistics.to_dict()
