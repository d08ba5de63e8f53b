"""Read plain text and JSONL files record by record, in constant memory."""

from collections.abc import Callable, Iterator
from typing import BinaryIO

from data_tools.document import Document, JsonKeys, MediaType
from data_tools.ledger import Ledger
from data_tools.read_errors import READ_ERRORS, explain_read_error
from data_tools.sources import CountedStream, InputFile, decompress

SKIP_CHUNK_BYTES = 1 << 20

_Records = Iterator[tuple[int, bytes | None]]
"""Offset in the uncompressed file, and the record's bytes; None for one that is too large."""


def read_jsonl(file: InputFile, *, stream: CountedStream, ledger: Ledger, max_record_bytes: int) -> Iterator[Document]:
    """Yield each line that is not blank, as JSON still to be parsed."""
    source = file.source
    keys = JsonKeys(text=source.text_field, id=source.id_field, url=source.url_field, title=source.title_field)
    for document in _read_records(stream, "json", _lines, ledger=ledger, max_record_bytes=max_record_bytes):
        document.json_keys = keys
        yield document


def read_text(file: InputFile, *, stream: CountedStream, ledger: Ledger, max_record_bytes: int) -> Iterator[Document]:
    """Yield the file, its paragraphs or its lines, as the source's split_text says."""
    split = {"file": _whole_file, "paragraph": _paragraphs, "line": _lines}[file.source.split_text]
    return _read_records(stream, "plain", split, ledger=ledger, max_record_bytes=max_record_bytes)


def _read_records(
    stream: CountedStream,
    media_type: MediaType,
    split: Callable[[BinaryIO, int], _Records],
    *,
    ledger: Ledger,
    max_record_bytes: int,
) -> Iterator[Document]:
    record = -1
    try:
        for record, (offset, content) in enumerate(split(decompress(stream), max_record_bytes)):
            ledger.read += 1
            if content is None:
                detail = f"more than {max_record_bytes} bytes"
                ledger.drop("record_too_large", record=record, name=f"byte {offset}", detail=detail)
            else:
                yield Document(record=record, media_type=media_type, content=content, offset=offset)
    except READ_ERRORS as error:
        ledger.read += 1
        reason, detail = explain_read_error(error)
        ledger.fail(reason, record=record + 1, detail=detail)


def _whole_file(stream: BinaryIO, limit: int) -> _Records:
    content = stream.read(limit + 1)
    if content.strip():
        yield 0, content if len(content) <= limit else None


def _lines(stream: BinaryIO, limit: int) -> _Records:
    offset = 0
    while line := stream.readline(limit + 1):
        size, rest = len(line), line
        while not rest.endswith(b"\n") and (rest := stream.readline(SKIP_CHUNK_BYTES)):
            size += len(rest)
        if size > limit:
            yield offset, None
        elif line.strip():
            yield offset, line
        offset += size


def _paragraphs(stream: BinaryIO, limit: int) -> _Records:
    start = offset = 0
    lines: list[bytes] | None = []
    size = 0
    while True:
        line = stream.readline(SKIP_CHUNK_BYTES)
        if line.strip():
            size += len(line)
            if size > limit:
                lines = None
            if lines is not None:
                lines.append(line)
        elif size:
            yield start, None if lines is None else b"".join(lines)
            lines, size = [], 0
        offset += len(line)
        if not size:
            start = offset
        if not line:
            return
