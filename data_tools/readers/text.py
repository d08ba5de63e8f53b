"""Read plain text, JSONL and JSON files record by record, in constant memory."""

import codecs
import io
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

from data_tools.document import Document, JsonKeys, MediaType
from data_tools.errors import READ_ERRORS, explain_read_error
from data_tools.inputs.files import InputFile, find_ending, keeps_whitespace
from data_tools.inputs.streams import CountedStream, decompress
from data_tools.ledger import Ledger
from data_tools.readers.json_values import holds_many_lines, split_values

SKIP_CHUNK_BYTES = 1 << 20
PEEK_BYTES = 4096
WIDE_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
"""Byte order marks of encodings whose lines do not end in one byte; that of UTF-16 begins that of UTF-32."""
PAGE_ENDINGS = frozenset({"html", "htm", "xhtml", "xht", "shtml"})
"""Extensions of web pages."""

_Records = Iterator[tuple[int, bytes | None]]
"""Offset in the uncompressed file, and the record's bytes; None for one that is too large."""


def read_jsonl(file: InputFile, *, stream: CountedStream, ledger: Ledger, max_record_bytes: int) -> Iterator[Document]:
    """Yield each line that is not blank, or each element of an array, as JSON still to be parsed."""
    source = file.source
    keys = JsonKeys(text=source.text_field, id=source.id_field, url=source.url_field, title=source.title_field)
    for document in _read_records(file, stream, "json", _json_values, ledger=ledger, max_record_bytes=max_record_bytes):
        document.json_keys = keys
        yield document


def read_text(file: InputFile, *, stream: CountedStream, ledger: Ledger, max_record_bytes: int) -> Iterator[Document]:
    """Yield the file, its paragraphs or its lines, as the source's split_text says; a web page is read as one."""
    split = {"file": _whole_file, "paragraph": _paragraphs, "line": _lines}[file.source.split_text]
    is_page = file.source.split_text == "file" and find_ending(file) in PAGE_ENDINGS
    media_type: MediaType = "html" if is_page else "plain"
    return _read_records(file, stream, media_type, split, ledger=ledger, max_record_bytes=max_record_bytes)


def _read_records(
    file: InputFile,
    stream: CountedStream,
    media_type: MediaType,
    split: Callable[[BinaryIO, int], _Records],
    *,
    ledger: Ledger,
    max_record_bytes: int,
) -> Iterator[Document]:
    record = -1
    keep_whitespace = keeps_whitespace(file)
    try:
        content_stream, is_recoded = _recode(decompress(stream))
        for record, (offset, content) in enumerate(split(content_stream, max_record_bytes)):
            ledger.read += 1
            if content is None:
                detail = f"more than {max_record_bytes} bytes"
                ledger.drop("record_too_large", record=record, name=f"byte {offset}", detail=detail)
            else:
                yield Document(
                    record=record,
                    media_type=media_type,
                    content=content,
                    offset=None if is_recoded else offset,
                    keep_whitespace=keep_whitespace,
                )
    except READ_ERRORS as error:
        ledger.read += 1
        reason, detail = explain_read_error(error)
        ledger.fail(reason, record=record + 1, detail=detail)


def _recode(stream: io.BufferedReader) -> tuple[BinaryIO, bool]:
    """Return the stream in UTF-8 if a byte order mark says that it is UTF-16 or UTF-32, and whether it was not."""
    start = stream.peek(4)[:4]
    encoding = next((encoding for mark, encoding in WIDE_MARKS.items() if start.startswith(mark)), None)
    if encoding is None:
        return stream, False
    return io.BufferedReader(_Recoded(stream, encoding), SKIP_CHUNK_BYTES), True


class _Recoded(io.RawIOBase):
    """A stream of another encoding, in UTF-8."""

    def __init__(self, stream: BinaryIO, encoding: str) -> None:
        self._stream = stream
        self._decoder = codecs.getincrementaldecoder(encoding)("replace")
        self._rest = b""

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: Any, /) -> int:
        """Read into a buffer."""
        while not self._rest and (data := self._stream.read(SKIP_CHUNK_BYTES)):
            self._rest = self._decoder.decode(data).encode("utf-8", "replace")
        size = min(len(buffer), len(self._rest))
        buffer[:size], self._rest = self._rest[:size], self._rest[size:]
        return size


def _json_values(stream: BinaryIO, limit: int) -> _Records:
    assert isinstance(stream, io.BufferedReader)
    return (split_values if holds_many_lines(stream.peek(PEEK_BYTES)) else _lines)(stream, limit)


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
            yield offset, line.rstrip(b"\r\n")
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
            yield start, None if lines is None else b"".join(lines).rstrip(b"\r\n")
            lines, size = [], 0
        offset += len(line)
        if not size:
            start = offset
        if not line:
            return
