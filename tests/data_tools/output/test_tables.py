"""The table of all records: rows in order, whole groups, and no row too many or too few."""

from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq

from data_tools.ledger import DroppedRecord, FileLedger, Ledger
from data_tools.output.tables import ROWS_PER_GROUP, RecordRow, RecordTableWriter, build_rows, find_records
from data_tools.work.spool import OUTCOMES_NAME, SpooledOutcomes, SpoolWriter, read_outcomes


def row(record: int, fate: str = "train", reason: str | None = None) -> RecordRow:
    return RecordRow(record, fate, reason, "", f"i{record}", f"u{record % 7}", "", None)


def ledger_of(**counts: int | Counter[str]) -> FileLedger:
    return FileLedger(source="s", path="f", bytes=1, counts=Ledger(**counts))  # type: ignore[arg-type]


def write(path: Path, sizes: list[int]) -> None:
    writer, first = RecordTableWriter(path), 0
    for size in sizes:
        rows = [row(first + place) for place in reversed(range(size))]
        writer.add(build_rows(rows), file=0, ledger=ledger_of())
        first += size
    writer.close()


def test_the_file_does_not_depend_on_the_batches(tmp_path: Path) -> None:
    total = 2 * ROWS_PER_GROUP + 100
    write(tmp_path / "one.parquet", [total])
    write(tmp_path / "many.parquet", [1000] * (total // 1000) + [0, total % 1000])
    assert (tmp_path / "one.parquet").read_bytes() == (tmp_path / "many.parquet").read_bytes()
    file = pq.ParquetFile(tmp_path / "one.parquet")
    assert [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)] == [
        ROWS_PER_GROUP,
        ROWS_PER_GROUP,
        100,
    ]
    assert file.read(columns=["record"]).column(0).to_pylist() == list(range(total))
    found = list(find_records(tmp_path / "one.parquet", column="url", value="u3"))
    assert [each.row.record for each in found] == list(range(3, total, 7))
    assert (found[0].source, found[0].file) == ("s", "f")


def test_a_table_from_before_there_were_languages(tmp_path: Path) -> None:
    write(tmp_path / "new.parquet", [3])
    table = pq.read_table(tmp_path / "new.parquet")
    assert table.column("language").to_pylist() == ["", "", ""], "where a caller tells none"
    pq.write_table(table.drop_columns("language"), tmp_path / "old.parquet")
    found = list(find_records(tmp_path / "old.parquet", column="url", value="u1"))
    assert [(each.row.record, each.row.language) for each in found] == [(1, "")]


def test_an_empty_table(tmp_path: Path) -> None:
    write(tmp_path / "empty.parquet", [])
    assert pq.read_table(tmp_path / "empty.parquet").num_rows == 0
    assert list(find_records(tmp_path / "empty.parquet", column="url", value="")) == []


def test_rows_that_differ_from_the_ledger_are_named(tmp_path: Path) -> None:
    writer = RecordTableWriter(tmp_path / "t.parquet")
    writer.add(build_rows([row(0), row(1, "dropped", "x"), row(2, "failed", "x")]), file=0, ledger=ledger_of())
    right = ledger_of(read=3, kept=1, dropped=Counter(x=1), failed=Counter(x=1))
    assert writer.find_differences([right]) == []
    for wrong in (
        ledger_of(read=3, kept=2, dropped=Counter(x=1)),
        ledger_of(read=3, kept=1, dropped=Counter(x=2)),
        ledger_of(read=3, kept=1, dropped=Counter(y=1), failed=Counter(x=1)),
    ):
        assert [violation.path for violation in writer.find_differences([wrong])] == ["ledger.parquet of f"]
    assert len(writer.find_differences([right, ledger_of(read=1, kept=1)])) == 1


def test_outcomes_stay_in_order_on_their_way_over_the_disk(tmp_path: Path) -> None:
    spooled = SpooledOutcomes(SpoolWriter(tmp_path, spool="0", name=OUTCOMES_NAME))
    ledger = Ledger(outcomes=spooled)
    total = SpooledOutcomes.MAX_IN_MEMORY * 2 + 3
    for record in range(total):
        ledger.drop("x", record=record, url="http://a/\udcff", detail="d" * 1000)
        assert len(spooled) < SpooledOutcomes.MAX_IN_MEMORY
    places = spooled.take()
    assert len(places) == 3
    assert spooled.take() == ()
    found = list(read_outcomes(tmp_path, places))
    assert [outcome.record for outcome in found] == list(range(total))
    assert found[0] == DroppedRecord(0, False, "x", "d" * 200, "", "http://a/?", "")
