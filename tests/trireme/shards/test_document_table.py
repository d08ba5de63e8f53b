"""The table of documents: rows by number from any row groups, read once; a table that cannot be used is said."""

from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from trireme.errors import ConfigError
from trireme.shards.document_table import DocumentOrigin, DocumentTable, open_documents, read_origins


def write_table(path: Path, *, rows: int, without: str = "", rows_per_group: int = 4) -> list[DocumentOrigin]:
    origins = [DocumentOrigin(f"s{n}", "f", n, None, f"i{n}", f"u{n}", f"t{n}", 5, "00", "en") for n in range(rows)]
    columns = {name: [getattr(row, name) for row in origins] for name in DocumentOrigin._fields if name != without}
    parquet.write_table(pa.table({**columns, "extra": list(range(rows))}), path, row_group_size=rows_per_group)
    return origins


def test_rows_are_those_of_the_documents_whatever_the_row_groups(tmp_path: Path) -> None:
    for rows_per_group in (1, 3, 4, 100):
        rows = write_table(tmp_path / "a.documents.parquet", rows=10, rows_per_group=rows_per_group)
        table = DocumentTable(tmp_path / "a.documents.parquet")
        assert [table.origin(number) for number in range(10)] == rows


def test_a_table_is_opened_and_a_row_group_read_once_for_many_documents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = {name: write_table(tmp_path / f"{name}.documents.parquet", rows=12) for name in "ab"}
    opened, groups = [], []

    class Counted(parquet.ParquetFile):  # type: ignore[misc]
        def __init__(self, path: Path) -> None:
            opened.append(path.name[0])
            super().__init__(path)

        def read_row_group(self, group: int, columns: list[str]) -> pa.Table:
            groups.append(group)
            return super().read_row_group(group, columns=columns)

    monkeypatch.setattr(parquet, "ParquetFile", Counted)
    places = [(str(tmp_path / name), number) for number in (9, 1, 10, 0, 1) for name in "bac"]
    found = read_origins(places)
    assert opened == ["a", "b"]
    assert groups == [0, 2, 0, 2]
    assert found == {(prefix, n): None if prefix[-1] == "c" else rows[prefix[-1]][n] for prefix, n in places}


def test_a_language_is_empty_where_the_table_has_no_such_column(tmp_path: Path) -> None:
    write_table(tmp_path / "a.documents.parquet", rows=1, without="language")
    table = open_documents(tmp_path / "a")
    assert table is not None
    assert table.origin(0).language == ""


def test_a_shard_without_a_table_has_none(tmp_path: Path) -> None:
    assert open_documents(tmp_path / "a") is None


def test_a_table_that_cannot_be_used_is_named_with_its_fault(tmp_path: Path) -> None:
    path = tmp_path / "a.documents.parquet"
    path.write_bytes(b"PAR1 is not all that a table needs")
    with pytest.raises(ConfigError, match=r"a\.documents\.parquet: cannot be read: .*Copy it again"):
        open_documents(tmp_path / "a")
    write_table(path, rows=3, without="title")
    with pytest.raises(ConfigError, match="has no column title"):
        open_documents(tmp_path / "a")
    write_table(path, rows=3)
    with pytest.raises(ConfigError, match="has 3 rows, and none for document 3"):
        read_origins([(str(tmp_path / "a"), 3)])
    content = bytearray(path.read_bytes())
    content[4:200] = bytes(196)
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_origins([(str(tmp_path / "a"), 0)])
