"""Choices that rest on hashes: duplicates, and what a table of origins gives back."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_tools.dedup.corpus import Corpus, hash_text
from data_tools.dedup.decide import Decision, decide
from data_tools.output.stats import compute_unigram_entropy
from data_tools.output.tables import ROWS_PER_GROUP, DocumentTableWriter, find_documents
from trireme.shards.document_table import DocumentOrigin, DocumentTable


def collect(texts: list[str], *, validation: set[str] = frozenset()) -> Corpus:  # type: ignore[assignment]
    return Corpus(
        batches=[],
        hashes=np.frombuffer(b"".join(map(hash_text, texts)), np.uint8).reshape(-1, 16),
        is_validation=np.array([text in validation for text in texts], np.bool_),
        num_characters=np.array([len(text) for text in texts], np.uint32),
        language_codes=np.zeros(len(texts), np.uint16),
        languages=[""],
        ledgers=[],
    )


@given(numbers=st.lists(st.integers(0, 30), max_size=100))
def test_the_first_of_equal_texts_is_kept(numbers: list[int]) -> None:
    texts = [f"text {number}" for number in numbers]
    decisions = decide(collect(texts, validation={"text 1", "text 2"}), drop_duplicates=True)
    for place, text in enumerate(texts):
        is_first = texts.index(text) == place
        kept = Decision.VALIDATION if text in ("text 1", "text 2") else Decision.TRAIN
        assert decisions[place] == (kept if is_first else Decision.DUPLICATE)
    assert Decision.DUPLICATE not in decide(collect(texts), drop_duplicates=False)


def test_unigram_entropy() -> None:
    train, validation = np.array([3, 0, 1]), np.array([1, 1, 0])
    expected = -(np.log(4 / 7) + np.log(1 / 7)) / 2
    assert compute_unigram_entropy(validation, under=train) == pytest.approx(expected)
    assert compute_unigram_entropy(np.zeros(3), under=train) is None


def test_a_table_of_more_than_one_group_returns_each_row_and_finds_it_by_value(tmp_path: Path) -> None:
    writer = DocumentTableWriter(tmp_path / "t.parquet")
    rows = [
        DocumentOrigin("s", "f", number, None if number % 2 else number, f"i{number}", f"u{number % 7}", "", 5, "00")
        for number in range(ROWS_PER_GROUP + 5)
    ]
    for row in rows:
        writer.add(row)
    writer.close()
    table = DocumentTable(tmp_path / "t.parquet")
    for number in (0, 1, ROWS_PER_GROUP - 1, ROWS_PER_GROUP, ROWS_PER_GROUP + 4):
        assert table.origin(number) == rows[number]
    last = f"i{ROWS_PER_GROUP + 2}"
    assert find_documents(tmp_path / "t.parquet", column="id", value=last) == [ROWS_PER_GROUP + 2]
    assert find_documents(tmp_path / "t.parquet", column="url", value="u3")[:2] == [3, 10]
