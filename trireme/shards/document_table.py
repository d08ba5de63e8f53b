"""Read where each document of a shard comes from: PREFIX.documents.parquet, which `trireme prepare` writes."""

from bisect import bisect_right
from collections.abc import Iterable
from itertools import accumulate, groupby
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
from pyarrow import parquet

from trireme.errors import ConfigError, Violation
from trireme.progress import format_number
from trireme.shards.shard import REBUILD, shard_file

DOCUMENTS_SUFFIX = ".documents.parquet"


class DocumentOrigin(NamedTuple):
    """Hold a row of the table."""

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
    """fastText's code; empty where not identified, and in tables without the column."""

    def describe(self) -> dict[str, Any]:
        """Return what leads to the document: source, file, record, id, url, title."""
        return {name: getattr(self, name) for name in ("source", "file", "record", "id", "url", "title")}


class DocumentTable:
    """Read rows of a table by number. The row group that was read last stays in memory, for the rows after it."""

    def __init__(self, path: Path) -> None:
        """Open the table; only its footer is read.

        Raises:
            ConfigError: it cannot be read, or lacks a column.
        """
        self._path = path
        try:
            self._file = parquet.ParquetFile(path)
        except (OSError, pa.ArrowException) as error:
            raise self._unusable(f"cannot be read: {error}") from error
        missing = set(DocumentOrigin._fields) - set(self._file.schema_arrow.names) - set(DocumentOrigin._field_defaults)
        if missing:
            raise self._unusable(f"has no column {', '.join(sorted(missing))}")
        metadata = self._file.metadata
        rows = (metadata.row_group(group).num_rows for group in range(metadata.num_row_groups))
        self._starts = list(accumulate(rows, initial=0))
        """First row of each group, and the number of all rows."""
        self._group: tuple[int, pa.Table] | None = None

    def origin(self, number: int) -> DocumentOrigin:
        """Return the row of a document, counted from 0.

        Raises:
            ConfigError: the table has no such row, or cannot be read.
        """
        if not 0 <= number < self._starts[-1]:
            rows = format_number(self._starts[-1], "row")
            raise self._unusable(f"has {rows}, and none for document {number}")
        group = bisect_right(self._starts, number) - 1
        if self._group is None or self._group[0] != group:
            try:
                self._group = group, self._file.read_row_group(group, columns=list(DocumentOrigin._fields))
            except (OSError, pa.ArrowException) as error:
                raise self._unusable(f"cannot be read: {error}") from error
        return DocumentOrigin(**self._group[1].slice(number - self._starts[group], 1).to_pylist()[0])

    def _unusable(self, message: str) -> ConfigError:
        return ConfigError([Violation(path=str(self._path), value="", message=message, fix=REBUILD)])


def open_documents(prefix: str | Path) -> DocumentTable | None:
    """Open the table of a shard; None where it has none.

    Raises:
        ConfigError: the table cannot be read, or lacks a column.
    """
    path = shard_file(prefix, DOCUMENTS_SUFFIX)
    return DocumentTable(path) if path.is_file() else None


def read_origins(documents: Iterable[tuple[str, int]]) -> dict[tuple[str, int], DocumentOrigin | None]:
    """Read the rows of documents, each a shard's prefix and a number; None where the shard has no table.

    Every table is opened, and every row group of it read, once.

    Raises:
        ConfigError: a table cannot be used, or has no row for a document.
    """
    found: dict[tuple[str, int], DocumentOrigin | None] = {}
    for prefix, places in groupby(sorted(set(documents)), key=lambda place: place[0]):
        table = open_documents(prefix)
        found |= {place: None if table is None else table.origin(place[1]) for place in places}
    return found
