"""PREFIX.documents.parquet: for each document of a shard where it came from; row i is document i."""

import os
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from trireme.shards.manifest import hash_file

TABLE_SUFFIX = ".documents.parquet"
ROWS_PER_GROUP = 1 << 15


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


SCHEMA = pa.schema(
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
        self._writer = pq.ParquetWriter(path, SCHEMA, compression="zstd")
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
        arrays = [pa.array(values, type=field.type) for values, field in zip(columns, SCHEMA, strict=True)]
        self._writer.write_table(pa.Table.from_arrays(arrays, schema=SCHEMA))
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
