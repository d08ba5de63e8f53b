"""Read Parquet files row by row, in constant memory: a row group, and in it a batch of rows, at a time."""

import io
import shutil
import tempfile
from collections.abc import Iterator
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_tools.config.schema import SourceConfig
from data_tools.document import Document
from data_tools.errors import find_reason
from data_tools.inputs.files import InputFile, keeps_whitespace
from data_tools.inputs.parquet_columns import describe_missing_text, find_binary_type, find_column
from data_tools.inputs.streams import CountedStream
from data_tools.ledger import Ledger

BATCH_BYTES = 8 << 20
"""Roughly what the rows of a batch take in memory."""
MAX_BATCH_ROWS = 4096
BUFFER_BYTES = 1 << 20
"""Column chunks are read in pieces of this size; without it each one is read whole, however large."""

READ_BYTES = 64 << 10

ORIGIN_FIELDS = ("id_field", "url_field", "title_field")

# What Arrow raises for damage depends on its place: ArrowInvalid, OSError, NotImplementedError for an encoding or
# type that no writer wrote, EOFError, MemoryError for a length that nothing has.
_DAMAGE = (pa.ArrowException, OSError, EOFError, NotImplementedError, MemoryError)


def read_parquet(
    file: InputFile, *, stream: CountedStream, ledger: Ledger, max_record_bytes: int
) -> Iterator[Document]:
    """Yield the rows of a file.

    A row group that cannot be read costs its rows: each counts as failed, so that record numbers stay row numbers.
    """
    try:
        parquet = pq.ParquetFile(_make_seekable(stream), buffer_size=BUFFER_BYTES, pre_buffer=False)
        problem = describe_missing_text(parquet.schema_arrow, file.source.text_field)
        _check_row_counts(parquet.metadata)
    except _DAMAGE as error:
        ledger.read += 1
        detail = f"nothing of it was read: {type(error).__name__}: {error}"
        ledger.fail(_reason_of(error), record=0, name=file.path, detail=detail)
        return
    if problem:
        ledger.read += 1
        ledger.fail("parquet_column_missing", record=0, name=file.path, detail=f"the file has {problem}")
        return
    first_row = 0
    keep_whitespace = keeps_whitespace(file)
    for group in range(parquet.num_row_groups):
        for document in _read_group(parquet, group, file.source, ledger, first_row, max_record_bytes):
            document.keep_whitespace = keep_whitespace
            yield document
        first_row += parquet.metadata.row_group(group).num_rows


def _check_row_counts(metadata: pq.FileMetaData) -> None:
    """Raise if the footer contradicts itself: a row group could claim any number of rows."""
    counts = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
    if min(counts, default=0) < 0 or sum(counts) != metadata.num_rows:
        raise EOFError(f"its row groups hold {sum(counts)} rows, and the file {metadata.num_rows}")


def _read_group(
    parquet: pq.ParquetFile,
    group: int,
    source: SourceConfig,
    ledger: Ledger,
    first_row: int,
    max_record_bytes: int,
) -> Iterator[Document]:
    """Yield the rows of a row group; those that cannot be read are counted."""
    facts = parquet.metadata.row_group(group)
    row, end = first_row, first_row + facts.num_rows
    names = dict.fromkeys([source.text_field, *(getattr(source, field) for field in ORIGIN_FIELDS)])
    columns = [name for name in names if find_column(parquet.schema_arrow, name) is not None]
    row_bytes = max(1, facts.total_byte_size // max(1, facts.num_rows))
    batch_rows = min(MAX_BATCH_ROWS, max(1, BATCH_BYTES // row_bytes))
    try:
        batches = parquet.iter_batches(batch_size=batch_rows, row_groups=[group], columns=columns, use_threads=False)
        for batch in batches:
            for document in _read_rows(batch, source, first_row=row, ledger=ledger, max_record_bytes=max_record_bytes):
                row += 1
                if document is not None:
                    yield document
        error: BaseException | None = None if row >= end else EOFError(f"{end - row} rows are missing")
    except _DAMAGE as damage:
        error = damage
    if error is not None:
        detail = f"row group {group}, rows {row} to {end - 1}: {type(error).__name__}: {error}"
        ledger.read += max(0, end - row)
        for lost in range(row, end):
            ledger.fail(_reason_of(error), record=lost, detail=detail)


def _reason_of(error: BaseException) -> str:
    return find_reason(error, truncated="parquet_corrupt", corrupt="parquet_corrupt")


def _read_rows(
    batch: pa.RecordBatch, source: SourceConfig, *, first_row: int, ledger: Ledger, max_record_bytes: int
) -> Iterator[Document | None]:
    """Yield one item for each row of a batch: None for one that is dropped."""
    # Arrow trusts a file's claim that its bytes are UTF-8; they are checked later.
    texts = _join_lists(_take_column(batch, source.text_field))
    texts = texts.cast(find_binary_type(texts.type))
    origins = [_read_names(batch, getattr(source, field)) for field in ORIGIN_FIELDS]
    for place in range(batch.num_rows):
        ledger.read += 1
        record = first_row + place
        id_, url, title = (names[place] for names in origins)
        content = texts[place].as_buffer()
        if content is None:
            ledger.drop("parquet_text_missing", record=record, name=url or title or id_, id=id_, url=url, title=title)
            yield None
        elif content.size > max_record_bytes:
            detail = f"more than {max_record_bytes} bytes"
            ledger.drop(
                "record_too_large", record=record, name=url or title or id_, detail=detail, id=id_, url=url, title=title
            )
            yield None
        else:
            yield Document(
                record=record,
                media_type="plain",
                content=content.to_pybytes(),
                id=id_,
                url=url,
                title=title,
            )


def _take_column(batch: pa.RecordBatch, name: str) -> pa.Array:
    """Return a column, or the field of a structure that a name with dots stands for."""
    if name in batch.schema.names:
        return batch.column(name)
    first, *path = name.split(".")
    return pc.struct_field(batch.column(first), path)


def _join_lists(texts: pa.Array) -> pa.Array:
    """Join each list of texts into lines; leave other columns unchanged."""
    kind = getattr(texts.type, "value_type", None)
    if kind is None or pa.types.is_dictionary(texts.type):
        return texts
    rows = texts.cast(pa.list_(find_binary_type(kind))).to_pylist()
    joined = [None if row is None else b"\n".join(text for text in row if text is not None) for row in rows]
    return pa.array(joined, pa.large_binary())


def _read_names(batch: pa.RecordBatch, name: str) -> list[str]:
    """Return what a column tells of each row's origin; empty where there is none."""
    if find_column(batch.schema, name) is None:
        return [""] * batch.num_rows
    column = _take_column(batch, name)
    binary = find_binary_type(column.type)
    if binary is not None:
        values = column.cast(binary).to_pylist()
        return [(value or b"").decode("utf-8", "replace") for value in values]
    if pa.types.is_integer(column.type):
        return ["" if value is None else str(value) for value in column.to_pylist()]
    return [""] * batch.num_rows


def _make_seekable(stream: CountedStream) -> BinaryIO:
    """Return the stream, or a copy on disk of one that cannot seek: the index of a Parquet file is at its end."""
    if stream.seekable():
        # Arrow takes a read that gives less than it asked for as the end of the file.
        return io.BufferedReader(stream, READ_BYTES)
    copy: Any = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the reader that holds it
    shutil.copyfileobj(stream, copy, BUFFER_BYTES)
    copy.seek(0, io.SEEK_SET)
    return copy
