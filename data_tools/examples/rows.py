"""Read the rows of JSON lines, JSON arrays, CSV, TSV and Parquet files, each with its line number."""

import csv
import gzip
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from data_tools.examples.example import BadLine
from trireme.json_values import parse_json, parse_json_at

_PARQUET_MAGIC = b"PAR1"
_GZIP_MAGIC = b"\x1f\x8b"
_BOM = b"\xef\xbb\xbf"
_BATCH_ROWS = 1024
_MAX_FIELD_CHARACTERS = 1 << 30
_NOT_UTF8 = "must be UTF-8"
_CONVERT = "Convert the file, such as with `iconv -f ENCODING -t UTF-8`."
_DAMAGE = (pa.ArrowException, OSError, EOFError, NotImplementedError)


class Row(NamedTuple):
    """Hold a record of a file."""

    line: int
    values: dict[str, Any]


def read_rows(path: Path) -> Iterator[Row | BadLine]:
    """Yield the records of a file and what is malformed in it; its content decides the format.

    A file that begins with `[` is a JSON array, with `{` JSON lines, with Parquet's mark a Parquet file; any other is
    CSV with a header, or TSV if the header has a tab. It may be compressed with gzip.

    Raises:
        OSError: it cannot be read.
    """
    with open_binary(path) as stream:
        head = _peek(stream)
        if head.startswith(_PARQUET_MAGIC):
            yield from _read_parquet(stream)
        elif not head.strip():
            yield BadLine(line=0, field="", message="contains no examples", fix="Name a file with examples.")
        elif head.startswith(b"["):
            yield from _read_array(stream)
        elif head.startswith(b"{"):
            yield from _read_lines(stream)
        else:
            yield from _read_csv(stream)


def open_binary(path: Path) -> BinaryIO:
    """Open a file, decompressed."""
    with path.open("rb") as stream:
        is_gzip = stream.read(2) == _GZIP_MAGIC
    return io.BufferedReader(gzip.open(path)) if is_gzip else path.open("rb")


def decode_line(raw: bytes, *, line: int) -> str | BadLine:
    """Decode a line of a text file, without its end."""
    try:
        return raw.decode("utf-8").rstrip("\r\n")
    except UnicodeDecodeError as error:
        message = f"{_NOT_UTF8}: byte {error.start} is 0x{raw[error.start]:02x}"
        return BadLine(line=line, field="", message=message, fix=_CONVERT)


def skip_bom(stream: BinaryIO) -> None:
    """Skip the byte order mark at the beginning of a stream that can seek."""
    if stream.read(len(_BOM)) != _BOM:
        stream.seek(0)


def _peek(stream: BinaryIO) -> bytes:
    """Return the first bytes after spaces, and leave the stream after a byte order mark."""
    skip_bom(stream)
    begin = stream.tell()
    head = stream.read(1 << 16).lstrip()
    stream.seek(begin)
    return head


def _read_lines(stream: BinaryIO) -> Iterator[Row | BadLine]:
    for line, raw in enumerate(stream, start=1):
        if not raw.strip():
            continue
        text = decode_line(raw, line=line)
        yield text if isinstance(text, BadLine) else _parse_object(text, line=line)


def _parse_object(text: str, *, line: int) -> Row | BadLine:
    fix = "Write one JSON object a line."
    try:
        values = parse_json(text)
    except ValueError as error:
        return BadLine(line=line, field="", message=f"must be JSON: {error}", fix=fix, value=text)
    if not isinstance(values, dict):
        return BadLine(line=line, field="", message="must be a JSON object", fix=fix, value=text)
    return Row(line, values)


def _read_array(stream: BinaryIO) -> Iterator[Row | BadLine]:
    try:
        text = stream.read().decode("utf-8")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        yield BadLine(line=line, field="", message=f"{_NOT_UTF8}: byte {error.start}", fix=_CONVERT)
        return
    place, line, counted = text.index("[") + 1, 1, 0
    is_first = True
    while True:
        place = _skip_spaces(text, place)
        if text[place : place + 1] == "]":
            return
        if not is_first:
            if text[place : place + 1] != ",":
                fix = "Write a JSON array of objects: [{...}, {...}]."
                line = text.count("\n", 0, place) + 1
                yield BadLine(line=line, field="", message="must be JSON: expected , or ] here", fix=fix)
                return
            place = _skip_spaces(text, place + 1)
        is_first = False
        line, counted = line + text.count("\n", counted, place), place
        try:
            values, place = parse_json_at(text, place)
        except ValueError as error:
            fix = "Write a JSON array of objects: [{...}, {...}]."
            yield BadLine(line=line, field="", message=f"must be JSON: {error}", fix=fix)
            return
        if isinstance(values, dict):
            yield Row(line, values)
        else:
            yield BadLine(
                line=line, field="", message="must be a JSON object", fix="Write [{...}, {...}].", value=values
            )


def _skip_spaces(text: str, place: int) -> int:
    while text[place : place + 1] in (" ", "\n", "\r", "\t") and place < len(text):
        place += 1
    return place


def _read_csv(stream: BinaryIO) -> Iterator[Row | BadLine]:
    csv.field_size_limit(_MAX_FIELD_CHARACTERS)
    bad: list[BadLine] = []

    def lines() -> Iterator[str]:
        for number, raw in enumerate(stream, start=1):
            text = decode_line(raw, line=number)
            if isinstance(text, BadLine):
                bad.append(text)
                text = raw.decode("utf-8", "replace").rstrip("\r\n")
            yield f"{text}\n"

    source = lines()
    first = next(source)
    delimiter = "\t" if "\t" in first else ","
    try:
        (header,) = csv.reader([first], delimiter=delimiter)
    except csv.Error:
        fix = "Convert the line ends, such as with `tr '\\r' '\\n'`."
        yield BadLine(line=1, field="", message="must be CSV: lines must end with LF or CR LF, not with CR", fix=fix)
        return
    yield from bad
    bad.clear()
    if repeated := sorted({name for name in header if header.count(name) > 1}):
        fix = "Give each column a name of its own."
        yield BadLine(line=1, field=repeated[0], message="names two columns", fix=fix)
        return
    reader = csv.reader(source, delimiter=delimiter, strict=True)
    previous = 1
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            fix = 'Quote a field with "..." and write a quote inside it as "".'
            yield BadLine(line=previous + 1, field="", message=f"must be CSV: {error}", fix=fix)
            previous = reader.line_num + 1
            continue
        line, previous = previous + 1, reader.line_num + 1
        if bad:
            yield from bad
            bad.clear()
        elif not cells:
            continue
        elif len(cells) != len(header):
            message = f"has {len(cells)} columns, and the header has {len(header)}"
            fix = f"Write {', '.join(header)} in each line, and quote fields that contain the separator."
            yield BadLine(line=line, field="", message=message, fix=fix, value=delimiter.join(cells))
        else:
            yield Row(line, dict(zip(header, cells, strict=True)))


def _read_parquet(stream: BinaryIO) -> Iterator[Row | BadLine]:
    line = 0
    try:
        for batch in pq.ParquetFile(stream).iter_batches(batch_size=_BATCH_ROWS):
            for values in batch.to_pylist():
                line += 1
                yield Row(line, values)
    except (*_DAMAGE, UnicodeDecodeError) as error:
        message = f"cannot be read as Parquet: {type(error).__name__}: {error}"
        yield BadLine(line=line + 1, field="", message=message, fix="Write the file again.")
