"""Read ARC files, the predecessor of WARC, record by record, continuing after damaged places.

warcio parses the headers. The gzip members are decompressed here: warcio's own reader treats a damaged member as text
that was never compressed, and writes to stderr. Its option arc2warc is not used, since it draws a random identifier for
each record, so that equal input would not give equal output.

Source: https://archive.org/web/researcher/ArcFileFormat.php (versions 1 and 2)
"""

import io
import re
import zlib
from collections.abc import Iterator
from typing import Any

from warcio.recordloader import ArcWarcRecord, ArcWarcRecordLoader

from data_tools.document import Document, DroppedError
from data_tools.errors import READ_ERRORS, UnreadableInputError, find_reason
from data_tools.inputs.streams import CountedStream
from data_tools.ledger import Ledger
from data_tools.readers.gzip_members import GZIP_MAGIC, GZIP_WINDOW, find_next_record
from data_tools.readers.http_record import (
    HTTP_START,
    BrokenRecordError,
    check_status,
    judge_content_type,
    list_codings,
    read_charset,
)

ARC_START = b"filedesc://"
PEEKED_BYTES = 4096
CHUNK_BYTES = 1 << 18
MAX_LINE_BYTES = 64 << 10
"""A record's first line; longer ones are damage."""

RECORD_START = re.compile(
    rb"\s*([A-Za-z][A-Za-z0-9+.-]*:\S[^\r\n]*?) [0-9A-Fa-f.:-]{1,45} \d{8,17} [^\r\n]*(?<= )\d+[ \r]*(?:\n|\Z)"
)
"""First line of a record: address, IP address, time, type, in version 2 five further fields, and last the length.
warcio takes all fields of version 2 but the last four for the address, so the address is taken from here."""

REASONS = {"truncated": "archive_truncated", "corrupt": "archive_corrupt"}

_Archive = CountedStream | io.BufferedReader


def starts_arc(archive: _Archive) -> bool:
    """Return whether an archive, plain or of gzip members, begins like an ARC file; nothing is consumed."""
    start = archive.peek(PEEKED_BYTES)
    if start.startswith(GZIP_MAGIC):
        try:
            start = zlib.decompressobj(GZIP_WINDOW).decompress(start, PEEKED_BYTES)
        except zlib.error:
            return False
    return start.startswith(ARC_START)


def read_arc(stream: CountedStream, *, archive: _Archive, ledger: Ledger, max_record_bytes: int) -> Iterator[Document]:
    """Yield the documents of an ARC file; every other record is counted with its reason, as for WARC.

    A gzip member that cannot be decompressed costs the records in it, and in a file without gzip a record that is not
    as long as declared costs itself; reading continues at the next intact one.

    Args:
        stream: the file as it is stored.
        archive: `stream`, or what decompressing it as a whole gives; then offsets are places in that.
    """
    reading = _ArcReading(ledger, max_record_bytes=max_record_bytes)
    if not archive.peek(len(GZIP_MAGIC)).startswith(GZIP_MAGIC):
        plain: Any = io.BufferedReader(archive, CHUNK_BYTES) if isinstance(archive, CountedStream) else archive
        yield from reading.read_plain(plain)
        return
    position: int | None = 0
    while position is not None:
        try:
            yield from reading.read_members(stream)
            position = None
        except READ_ERRORS as error:
            position = None
            if not isinstance(error, UnreadableInputError):
                position = find_next_record(stream, after=reading.offset, record_start=RECORD_START)
            lost = "what follows in the file is lost" if position is None else f"went on at byte {position}"
            reading.fail(find_reason(error, **REASONS), f"{error}; {lost}")
            if position is not None:
                stream.seek(position)


class _GzipMember(io.RawIOBase):
    """The decompressed bytes of one gzip member."""

    def __init__(self, stream: CountedStream, read_before: bytes) -> None:
        self._stream, self._data = stream, read_before
        self._decompressor = zlib.decompressobj(GZIP_WINDOW)

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: Any, /) -> int:
        """Read what one step gives; 0 at the member's end.

        Raises:
            EOFError: the file is cut.
            zlib.error: the member is damaged.
        """
        decompressed = b""
        while not decompressed and not self._decompressor.eof:
            self._data = self._data or self._stream.read(CHUNK_BYTES)
            if not self._data:
                raise EOFError("the file ends within a gzip member")
            decompressed = self._decompressor.decompress(self._data, len(buffer))
            self._data = self._decompressor.unconsumed_tail
        buffer[: len(decompressed)] = decompressed
        return len(decompressed)

    @property
    def rest(self) -> bytes:
        """Return the bytes read from the stream after the member's end."""
        return self._decompressor.unused_data


class _ArcReading:
    """Turn the records of one file into documents, and count them."""

    def __init__(self, ledger: Ledger, *, max_record_bytes: int) -> None:
        self.offset = 0
        """First byte of the record that is being read."""
        self._ledger, self._max_record_bytes = ledger, max_record_bytes
        self._number = 0
        self._loader = ArcWarcRecordLoader(verify_http=False, arc2warc=False)

    def fail(self, reason: str, detail: str) -> None:
        """Count a place that holds no record that could be read."""
        self._ledger.read += 1
        self._ledger.fail(reason, record=self._number, name=f"after byte {self.offset}", detail=detail)
        self._number += 1

    def read_members(self, stream: CountedStream) -> Iterator[Document]:
        """Read gzip members from the stream's place on."""
        rest = b""
        while True:
            start = stream.tell() - len(rest)
            rest = rest or stream.read(CHUNK_BYTES)
            if not rest.startswith(GZIP_MAGIC) and len(rest) >= len(GZIP_MAGIC):
                if rest.strip(b"\0"):
                    self.offset = start
                    self.fail("archive_trailing_garbage", "what follows the last whole record cannot be read")
                return
            if not rest:
                return
            self.offset = start
            member = _GzipMember(stream, rest)
            yield from self._read_records(io.BufferedReader(member, CHUNK_BYTES), member_start=start)
            rest = member.rest

    def read_plain(self, records: io.BufferedReader) -> Iterator[Document]:
        """Read a file without gzip, or decompressed as a whole."""
        try:
            yield from self._read_records(records, member_start=None)
        except READ_ERRORS as error:
            self.fail(find_reason(error, **REASONS), f"what follows in the file is lost: {error}")

    def _read_records(self, records: io.BufferedReader, *, member_start: int | None) -> Iterator[Document]:
        is_lost = False
        while True:
            place = records.tell() if member_start is None else member_start
            line = records.readline(MAX_LINE_BYTES)
            if not line:
                return
            if not RECORD_START.match(line):
                if line.strip() and not is_lost:
                    self.offset = place
                    self.fail("archive_corrupt", "no record where one should begin; went on at the next one")
                    is_lost = True
                continue
            is_lost = False
            self.offset = place
            document = self._read_record(records, line)
            if document is not None:
                yield document

    def _read_record(self, records: io.BufferedReader, line: bytes) -> Document | None:
        """Turn a record into a document, or count why it is none; leaves the stream after it."""
        record = self._loader.parse_record_stream(records, statusline=line, known_format="arc", no_record_parse=True)
        block = record.raw_stream.read(self._max_record_bytes + 1)
        length = len(block)
        while more := record.raw_stream.read(CHUNK_BYTES):
            length += len(more)
        # Nothing is counted before the record's last byte: what cannot be read is counted by the callers.
        number, self._number = self._number, self._number + 1
        self._ledger.read += 1
        url = _decode(RECORD_START.match(line)[1])  # type: ignore[index]  # it was matched before
        try:
            if line.startswith(ARC_START):
                raise DroppedError("record_type_warcinfo")
            if len(block) > self._max_record_bytes:
                raise DroppedError("record_too_large", f"more than {self._max_record_bytes} bytes")
            if length < record.length:
                raise BrokenRecordError("record_truncated")
            return self._build_document(record, block, number=number, url=url)
        except DroppedError as error:
            self._ledger.drop(error.reason, record=number, name=url, url=url, detail=error.detail)
        except BrokenRecordError as error:
            self._ledger.fail(str(error), record=number, name=url, url=url)
        return None

    def _build_document(self, record: ArcWarcRecord, block: bytes, *, number: int, url: str) -> Document:
        declared: str | None = record.content_type
        codings: tuple[str, ...] = ()
        # The first crawlers stored pages of HTTP/0.9, which have no headers.
        if block.startswith(HTTP_START):
            stream = io.BytesIO(block)
            headers = self._loader.http_parser.parse(stream)
            check_status(headers.get_statuscode() or "")
            declared, codings = headers.get_header("Content-Type"), list_codings(headers.get_header)
            block = stream.read()
        elif url.startswith(("http:", "https:")) and not block:
            raise BrokenRecordError("http_header_invalid")
        return Document(
            record=number,
            media_type=judge_content_type(declared, self._ledger),
            content=block,
            offset=self.offset,
            url=url,
            is_from_web=True,
            charset=read_charset(declared),
            codings=codings,
        )


def _decode(address: bytes) -> str:
    """Decode as warcio decodes headers."""
    try:
        return address.decode("utf-8")
    except UnicodeDecodeError:
        return address.decode("iso-8859-1")
