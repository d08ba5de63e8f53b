"""Parquet tables: ledger.parquet has a row for each record, PREFIX.documents.parquet one for each document."""

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
from trireme.shards.manifest import hash_file

RECORD_TABLE_NAME = "ledger.parquet"
ROWS_PER_GROUP = 1 << 15
DROPPED, FAILED = "dropped", "failed"


class RecordRow(NamedTuple):
    """What became of a record; its source and file are told for a whole batch."""

    record: int
    fate: str
    """The split where it was kept, or dropped, or failed."""
    reason: str | None
    """Null where it was kept."""
    detail: str
    id: str
    url: str
    title: str
    text_hash: str | None
    """Of the cleaned text, where it got so far."""
    language: str = ""
    """fastText's code; empty where nothing identified it, or before there was such a column."""


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
    """A row of the table."""

    source: str
    file: str
    row: RecordRow


def build_rows(rows: Iterable[RecordRow]) -> pa.RecordBatch:
    """Put a batch's rows in the order of its records, in columns."""
    ordered = sorted(rows, key=lambda row: row.record)
    columns: Iterable[tuple[Any, ...]] = zip(*ordered, strict=True) if ordered else [()] * len(_ROW_FIELDS)
    arrays = [pa.array(values, type=field.type) for values, field in zip(columns, _ROW_FIELDS, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=pa.schema(_ROW_FIELDS))


class RecordTableWriter:
    """Writes row groups of one size, so that the file depends on the rows alone, and counts what it writes."""

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
            ledger: tells the file's source and path.
        """
        counted = Counter(zip(rows.column("fate").to_pylist(), rows.column("reason").to_pylist(), strict=True))
        self._counts.setdefault(file, Counter()).update(counted)
        names = [pa.repeat(pa.scalar(name, pa.string()), rows.num_rows) for name in (ledger.source, ledger.path)]
        self._waiting.append(pa.Table.from_arrays([*names, *rows.columns], schema=RECORD_SCHEMA))
        self._num_waiting += rows.num_rows
        if self._num_waiting >= ROWS_PER_GROUP:
            self._flush(is_last=False)

    def close(self) -> None:
        """Make the file durable."""
        self._flush(is_last=True)
        self._writer.close()
        with open(self._path, "rb") as stream:
            os.fsync(stream.fileno())

    def find_differences(self, ledgers: list[FileLedger]) -> list[Violation]:
        """Name every file whose rows are not what its ledger counts; that would be an error of this program."""
        found = []
        for index, ledger in enumerate(ledgers):
            counts = ledger.counts
            expected = {(DROPPED, reason): count for reason, count in counts.dropped.items()}
            expected |= {(FAILED, reason): count for reason, count in counts.failed.items()}
            rows = dict(self._counts.get(index, Counter()))
            num_kept = sum(rows.pop(key) for key in [key for key in rows if key[1] is None])
            if rows != expected or num_kept != counts.kept:
                rule = f"does not hold what the ledger counts: {num_kept} kept, {rows}"
                fix = "nothing was written; report this as an error of data_tools, with the input file"
                value = f"{counts.kept} kept, {expected}"
                found.append(
                    Violation(path=f"{RECORD_TABLE_NAME} of {ledger.path}", value=value, message=rule, fix=fix)
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
    """Rows whose column has the value, group by group."""
    file = pq.ParquetFile(path)
    for group in range(file.num_row_groups):
        is_equal = pc.equal(file.read_row_group(group, columns=[column]).column(0), value)
        if not pc.any(is_equal).as_py():
            continue
        for row in file.read_row_group(group).filter(is_equal).to_pylist():
            source, name = row.pop("source"), row.pop("file")
            yield FoundRecord(source, name, RecordRow(**row))


TABLE_SUFFIX = ".documents.parquet"


class DocumentOrigin(NamedTuple):
    """One row."""

    source: str
    file: str
    record: int
    offset: int | None
    id: str
    url: str
    title: str
    num_tokens: int
    text_hash: str
    language: str = ""
    """fastText's code; empty when languages were not identified, or before there was such a column."""


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
    """Writes rows in groups of one size, so that the file depends on the rows alone."""

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
        """Make the file durable.

        Returns:
            What a manifest records of it.
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


def read_origin(path: Path, document: int) -> DocumentOrigin:
    """Read one row, and no more of the file than its row group."""
    file = pq.ParquetFile(path)
    group, row = divmod(document, ROWS_PER_GROUP)
    values = file.read_row_group(group).slice(row, 1).to_pylist()[0]
    return DocumentOrigin(**values)


def find_documents(path: Path, *, column: str, value: str) -> list[int]:
    """Numbers of the documents whose column has the value, group by group."""
    found: list[int] = []
    file = pq.ParquetFile(path)
    first = 0
    for group in range(file.num_row_groups):
        values = file.read_row_group(group, columns=[column]).column(0).to_pylist()
        found += [first + row for row, other in enumerate(values) if other == value]
        first += len(values)
    return found
