"""Parquet tables: ledger.parquet has a row per record, PREFIX.documents.parquet a row per document."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_tools.ledger import FileLedger
from trireme.errors import Violation
from trireme.shards.document_table import DocumentOrigin
from trireme.shards.manifest import hash_file

RECORD_TABLE_NAME = "ledger.parquet"
ROWS_PER_GROUP = 1 << 15
DROPPED, FAILED = "dropped", "failed"


class RecordRow(NamedTuple):
    """The outcome of a record; its source and file are given for a whole batch."""

    record: int
    fate: str
    """The split of a kept record; else dropped or failed."""
    reason: str | None
    """Null for a kept record."""
    detail: str
    id: str
    url: str
    title: str
    text_hash: str | None
    """Of the cleaned text; null if the record was dropped or failed before that."""
    language: str = ""
    """fastText's code; empty where not identified, and in tables without the column."""


_ROW_FIELDS = [
    pa.field("record", pa.int64(), nullable=False),
    pa.field("fate", pa.string(), nullable=False),
    pa.field("reason", pa.string()),
    pa.field("detail", pa.string(), nullable=False),
    pa.field("id", pa.string(), nullable=False),
    pa.field("url", pa.string(), nullable=False),
    pa.field("title", pa.string(), nullable=False),
    pa.field("text_hash", pa.string()),
    pa.field("language", pa.string(), nullable=False),
]
_FILE_FIELDS = [pa.field("source", pa.string(), nullable=False), pa.field("file", pa.string(), nullable=False)]
RECORD_SCHEMA = pa.schema([*_FILE_FIELDS, *_ROW_FIELDS])


class FoundRecord(NamedTuple):
    """A row of the table of records."""

    source: str
    file: str
    row: RecordRow


def build_rows(rows: Iterable[RecordRow]) -> pa.RecordBatch:
    """Build the columns of a batch's rows, in the order of its records."""
    ordered = sorted(rows, key=lambda row: row.record)
    columns: Iterable[tuple[Any, ...]] = zip(*ordered, strict=True) if ordered else [()] * len(_ROW_FIELDS)
    arrays = [pa.array(values, type=field.type) for values, field in zip(columns, _ROW_FIELDS, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=pa.schema(_ROW_FIELDS))


class RecordTableWriter:
    """Write row groups of one size, so that the file depends on the rows alone, and count the rows."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._writer = pq.ParquetWriter(path, RECORD_SCHEMA, compression="zstd")
        self._waiting: list[pa.Table] = []
        self._num_waiting = 0
        self._counts: dict[int, Counter[tuple[str, str | None]]] = {}

    def add(self, rows: pa.RecordBatch, *, file: int, ledger: FileLedger) -> None:
        """Append a batch's rows.

        Args:
            file: index of the input file.
            ledger: holds the file's source and path.
        """
        counted = Counter(zip(rows.column("fate").to_pylist(), rows.column("reason").to_pylist(), strict=True))
        self._counts.setdefault(file, Counter()).update(counted)
        names = [pa.repeat(pa.scalar(name, pa.string()), rows.num_rows) for name in (ledger.source, ledger.path)]
        self._waiting.append(pa.Table.from_arrays([*names, *rows.columns], schema=RECORD_SCHEMA))
        self._num_waiting += rows.num_rows
        if self._num_waiting >= ROWS_PER_GROUP:
            self._flush(is_last=False)

    def close(self) -> None:
        """Write the rest and make the file durable."""
        self._flush(is_last=True)
        self._writer.close()
        with open(self._path, "rb") as stream:
            os.fsync(stream.fileno())

    def find_differences(self, ledgers: list[FileLedger]) -> list[Violation]:
        """List every file whose rows do not match its ledger; that would be a bug."""
        found = []
        for index, ledger in enumerate(ledgers):
            counts = ledger.counts
            expected = {(DROPPED, reason): count for reason, count in counts.dropped.items()}
            expected |= {(FAILED, reason): count for reason, count in counts.failed.items()}
            rows = dict(self._counts.get(index, Counter()))
            num_kept = sum(rows.pop(key) for key in [key for key in rows if key[1] is None])
            if rows != expected or num_kept != counts.kept:
                found.append(
                    Violation(
                        path=f"{RECORD_TABLE_NAME} of {ledger.path}",
                        value=f"{num_kept} kept, {rows}",
                        message=f"must match the ledger ({counts.kept} kept, {expected})",
                        fix="This is a bug; nothing was published. Please report it with the input file.",
                    )
                )
        return found

    def _flush(self, *, is_last: bool) -> None:
        table = pa.concat_tables(self._waiting).combine_chunks() if self._waiting else RECORD_SCHEMA.empty_table()
        first = 0
        while table.num_rows - first >= (1 if is_last else ROWS_PER_GROUP):
            self._writer.write_table(table.slice(first, ROWS_PER_GROUP))
            first += ROWS_PER_GROUP
        self._waiting = [table.slice(first)]
        self._num_waiting = max(table.num_rows - first, 0)


def find_records(path: Path, *, column: str, value: str) -> Iterator[FoundRecord]:
    """Yield the rows whose column has the value, reading one row group at a time."""
    file = pq.ParquetFile(path)
    for group in range(file.num_row_groups):
        is_equal = pc.equal(file.read_row_group(group, columns=[column]).column(0), value)
        if not pc.any(is_equal).as_py():
            continue
        for row in file.read_row_group(group).filter(is_equal).to_pylist():
            source, name = row.pop("source"), row.pop("file")
            yield FoundRecord(source, name, RecordRow(**row))


DOCUMENT_SCHEMA = pa.schema(
    [
        pa.field("source", pa.string(), nullable=False),
        pa.field("file", pa.string(), nullable=False),
        pa.field("record", pa.int64(), nullable=False),
        pa.field("offset", pa.int64()),
        pa.field("id", pa.string(), nullable=False),
        pa.field("url", pa.string(), nullable=False),
        pa.field("title", pa.string(), nullable=False),
        pa.field("num_tokens", pa.int32(), nullable=False),
        pa.field("text_hash", pa.string(), nullable=False),
        pa.field("language", pa.string(), nullable=False),
    ]
)


class DocumentTableWriter:
    """Write row groups of one size, so that the file depends on the rows alone."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._writer = pq.ParquetWriter(path, DOCUMENT_SCHEMA, compression="zstd")
        self._rows: list[DocumentOrigin] = []

    def add(self, row: DocumentOrigin) -> None:
        """Append a row."""
        self._rows.append(row)
        if len(self._rows) >= ROWS_PER_GROUP:
            self._flush()

    def close(self) -> dict[str, Any]:
        """Write the rest and make the file durable.

        Returns:
            The file's entry in a manifest.
        """
        if self._rows:
            self._flush()
        self._writer.close()
        with open(self.path, "rb") as stream:
            os.fsync(stream.fileno())
        return {"bytes": self.path.stat().st_size, "sha256": hash_file(self.path)}

    def _flush(self) -> None:
        columns = zip(*self._rows, strict=True)
        arrays = [pa.array(values, type=field.type) for values, field in zip(columns, DOCUMENT_SCHEMA, strict=True)]
        self._writer.write_table(pa.Table.from_arrays(arrays, schema=DOCUMENT_SCHEMA))
        self._rows.clear()


def find_documents(path: Path, *, column: str, value: str) -> list[int]:
    """Find the numbers of the documents whose column has the value, reading one row group at a time."""
    found: list[int] = []
    file = pq.ParquetFile(path)
    first = 0
    for group in range(file.num_row_groups):
        values = file.read_row_group(group, columns=[column]).column(0).to_pylist()
        found += [first + row for row, other in enumerate(values) if other == value]
        first += len(values)
    return found
