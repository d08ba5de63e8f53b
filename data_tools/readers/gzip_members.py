"""Find damage in archives of gzip members: readers end silently at a truncation and cannot skip a damaged member."""

import re
import zlib
from dataclasses import dataclass

from data_tools.inputs.streams import CountedStream

CHUNK_BYTES = 1 << 20
GZIP_MAGIC = b"\x1f\x8b\x08"
WARC_START = re.compile(rb"WARC/")
START_BYTES = 4096
"""How much of a member is looked at to tell whether a record starts it."""
GZIP_WINDOW = 31
"""zlib's window size for a gzip header and trailer around 32 KiB."""


@dataclass(frozen=True, kw_only=True)
class UnreadEnd:
    """Bytes at the end of a file that hold no whole record."""

    offset: int
    reason: str
    detail: str


@dataclass(frozen=True, kw_only=True)
class _Member:
    """The result of decompressing one gzip member."""

    is_whole: bool
    has_record: bool
    end: int
    """First byte after it."""


def find_unread_end(stream: CountedStream, *, last_start: int) -> UnreadEnd | None:
    """Find bytes after the last record that hold no intact record.

    Args:
        stream: the archive after it was read to its end; only gzip members of a stream that can seek are examined.
        last_start: first byte of the last record that was read.
    """
    if not stream.seekable():
        return None
    stream.seek(last_start)
    if stream.read(len(GZIP_MAGIC)) != GZIP_MAGIC:
        return None
    member = _read_member(stream, last_start, record_start=WARC_START)
    if not member.is_whole:
        # The last record itself is short, which its length told, or only the checksum after it is missing.
        return None
    stream.seek(member.end)
    rest = stream.read(CHUNK_BYTES)
    if not rest.strip(b"\0"):
        return None
    reason = "archive_truncated" if rest.startswith(GZIP_MAGIC[: len(rest)]) else "archive_trailing_garbage"
    return UnreadEnd(offset=member.end, reason=reason, detail="what follows the last whole record cannot be read")


def find_next_record(stream: CountedStream, *, after: int, record_start: re.Pattern[bytes] = WARC_START) -> int | None:
    """Find the first gzip member after an offset that decompresses completely and starts a record; None if none.

    Args:
        record_start: matches the beginning of a record.
    """
    if not stream.seekable():
        return None
    position = after + 1
    while (candidate := _find_magic(stream, position)) is not None:
        member = _read_member(stream, candidate, record_start=record_start)
        if member.is_whole and member.has_record:
            return candidate
        position = candidate + 1
    return None


def _find_magic(stream: CountedStream, position: int) -> int | None:
    stream.seek(position)
    kept = b""
    while chunk := stream.read(CHUNK_BYTES):
        data = kept + chunk
        at = data.find(GZIP_MAGIC)
        if at >= 0:
            return position - len(kept) + at
        position += len(chunk)
        kept = data[-len(GZIP_MAGIC) + 1 :]
    return None


def _read_member(stream: CountedStream, start: int, *, record_start: re.Pattern[bytes]) -> _Member:
    """Decompress one member in constant memory."""
    stream.seek(start)
    decompressor = zlib.decompressobj(GZIP_WINDOW)
    beginning = b""
    consumed = 0
    try:
        while not decompressor.eof and (chunk := stream.read(CHUNK_BYTES)):
            consumed += len(chunk)
            while chunk and not decompressor.eof:
                data = decompressor.decompress(chunk, CHUNK_BYTES)
                chunk = decompressor.unconsumed_tail
                if len(beginning) < START_BYTES:
                    beginning += data[:START_BYTES]
    except zlib.error:
        return _Member(is_whole=False, has_record=False, end=start)
    end = start + consumed - len(decompressor.unused_data)
    return _Member(is_whole=decompressor.eof, has_record=bool(record_start.match(beginning)), end=end)
