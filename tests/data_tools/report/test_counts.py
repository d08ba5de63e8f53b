"""What a report counts in the tables: the same as a plain loop, in memory that does not grow with them."""

import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from data_tools.ledger import FileLedger, Ledger
from data_tools.output.tables import (
    ROWS_PER_GROUP,
    DocumentTableWriter,
    RecordRow,
    RecordTableWriter,
    build_rows,
)
from data_tools.report.counts import NUM_LARGEST, TableCounts, count_tables
from tests.data_tools.commands import run_process
from trireme.shards.document_table import DocumentOrigin

LANGUAGES = ("en", "zh", "")


def hash_of(number: int) -> str:
    return f"{(number + 1) * 0x9E3779B97F4A7C15 % 2**128:032x}"


def make_rows(count: int) -> list[RecordRow]:
    """Kept records, each followed by few or many copies; and some that failed."""
    random, rows, kept = np.random.default_rng(3), list[RecordRow](), 0
    while len(rows) < count:
        first = len(rows)
        language = LANGUAGES[first % 3]
        fate = ("train", "validation")[first % 10 == 0]
        rows.append(RecordRow(first, fate, None, "", "", f"http://a/{first}", "", hash_of(first), language))
        kept += 1
        for _ in range(int(random.geometric(0.5)) - 1):
            detail = f"of the document with text_hash {hash_of(first)}"
            rows.append(RecordRow(len(rows), "dropped", "near_duplicate", detail, "", "", "", hash_of(-1), language))
        for _ in range(int(random.geometric(0.7)) - 1):
            rows.append(RecordRow(len(rows), "dropped", "duplicate", "", "", "", "", hash_of(first), language))
        if first % 7 == 0:
            rows.append(RecordRow(len(rows), "failed", "bad_json", "near_duplicate", "", "", "", None))
    return rows


def write_tables(output: Path, rows: list[RecordRow]) -> None:
    writer = RecordTableWriter(output / "ledger.parquet")
    file = FileLedger(source="s", path="f", bytes=None, counts=Ledger())
    writer.add(build_rows(rows), file=0, ledger=file)
    writer.close()
    for split in ("train", "validation"):
        documents = DocumentTableWriter(output / f"{split}.documents.parquet")
        for row in rows:
            if row.fate == split:
                source, num_tokens = f"s{row.record % 2}", row.record % 500 + 1
                documents.add(
                    DocumentOrigin(source, "f", row.record, None, "", row.url, "", num_tokens, "", row.language)
                )
        documents.close()


def test_counts_are_those_of_a_simple_loop(tmp_path: Path) -> None:
    rows = make_rows(ROWS_PER_GROUP + 5000)
    write_tables(tmp_path, rows)
    assert pq.ParquetFile(tmp_path / "ledger.parquet").num_row_groups == 2
    found = count_tables(tmp_path)
    kept = [row for row in rows if row.reason is None]
    assert found.documents == Counter((row.fate, row.language) for row in kept)
    assert found.lost == Counter((row.fate, row.language) for row in rows if row.reason is not None)
    for split in ("train", "validation"):
        lengths = [row.record % 500 + 1 for row in kept if row.fate == split]
        assert sum(count for (mine, _), count in found.tokens.items() if mine == split) == sum(lengths)
        histogram = found.token_lengths[split]
        expected, _ = np.histogram(lengths, bins=[edge - 0.5 for edge in histogram["edges"]])
        assert histogram["counts"] == expected.tolist()
    assert found.source_tokens == Counter(
        {f"s{side}": sum(row.record % 500 + 1 for row in kept if row.record % 2 == side) for side in (0, 1)}
    )
    near = Counter(row.detail[-32:] for row in rows if row.reason == "near_duplicate")
    equal = Counter(row.text_hash for row in rows if row.reason == "duplicate")
    for counts, copies in ((found.near_duplicates, near), (found.duplicates, equal)):
        assert counts is not None
        assert counts.sizes == dict(sorted(Counter(count + 1 for count in copies.values()).items()))
        largest = [each.num_records for each in counts.largest]
        assert largest == [count + 1 for _, count in copies.most_common(NUM_LARGEST)]
        for each in counts.largest:
            assert copies[hash_of(each.record)] == each.num_records - 1
            assert each.name == f"http://a/{each.record}"


def test_without_tables_everything_is_empty(tmp_path: Path) -> None:
    empty = {"edges": list[int](), "counts": list[int]()}
    assert count_tables(tmp_path) == TableCounts(token_lengths={"train": empty, "validation": empty})


def test_tables_from_before_there_were_languages(tmp_path: Path) -> None:
    rows = make_rows(100)
    write_tables(tmp_path, rows)
    for path in tmp_path.glob("*.parquet"):
        pq.write_table(pq.read_table(path).drop_columns("language"), path)
    found = count_tables(tmp_path)
    assert not found.tells_lost_languages
    assert found.lost.keys() == {("dropped", ""), ("failed", "")}
    assert found.documents.total() == sum(row.reason is None for row in rows)


def test_memory_does_not_grow_with_the_tables(tmp_path: Path) -> None:
    rows = build_rows(make_rows(ROWS_PER_GROUP))
    peaks = []
    for num_groups in (4, 40):
        output = tmp_path / str(num_groups)
        output.mkdir()
        writer = RecordTableWriter(output / "ledger.parquet")
        for _ in range(num_groups):
            writer.add(rows, file=0, ledger=FileLedger(source="s", path="f", bytes=None, counts=Ledger()))
        writer.close()
        code = (
            "import sys, pathlib, pyarrow; from data_tools.report.counts import count_tables;"
            "found = count_tables(pathlib.Path(sys.argv[1])); assert found.near_duplicates.sizes;"
            "print(pyarrow.default_memory_pool().max_memory())"
        )
        done = run_process(sys.executable, "-c", code, output)
        assert done.returncode == 0, done.stderr
        peaks.append(int(done.stdout))
    assert peaks[1] < 1.3 * peaks[0], peaks
