"""Read web archives (WARC, WET) record by record, and go on behind damaged places."""

import io
import re
from collections.abc import Iterator

from fastwarc import ArchiveIterator, WarcRecord

from data_tools.document import Document, DroppedError, MediaType
from data_tools.gzip_damage import find_next_record, find_unread_end
from data_tools.ledger import Ledger
from data_tools.sources import MAGIC_BYTES, READ_ERRORS, CountedStream, InputFile, decompress

MEDIA_TYPES: dict[str, MediaType] = {
    "text/html": "html",
    "application/xhtml+xml": "html",
    "application/html": "html",
    "text/plain": "plain",
}
UNTOLD_TYPES = {"application/octet-stream", "binary/octet-stream", "unknown/unknown", "text/*", "*/*"}
"""Content types that servers send when they do not know."""

FOREIGN_MAGIC = (b"BZh", b"\xfd7zXZ")

HTTP_STATUS = re.compile(r"[1-5]\d\d")


def read_warc(file: InputFile, *, stream: CountedStream, ledger: Ledger, max_record_bytes: int) -> Iterator[Document]:
    """Yield the documents of a web archive; every other record is counted with its reason.

    A gzip member that cannot be decompressed costs the records in it; reading goes on at the next whole one.
    """
    position: int | None = 0
    number = 0
    archive = _open_archive(stream)
    while position is not None:
        last_start = position
        try:
            # Quirks mode reads bare line feeds too, and costs nothing (measured equal on well-formed archives).
            for record in ArchiveIterator(archive, quirks_mode=True, strict_mode=False):
                last_start = record.stream_pos
                document = _read_record(record, number=number, ledger=ledger, max_record_bytes=max_record_bytes)
                number += 1
                if document is not None:
                    yield document
            position = None
            if number == 0 and stream.bytes_read:
                ledger.read += 1
                ledger.fail("archive_without_records", record=0, detail="is it a WARC or WET file?")
            unread = None if archive is not stream else find_unread_end(stream, last_start=last_start)
            if unread:
                ledger.read += 1
                ledger.fail(unread.reason, record=number, name=f"byte {unread.offset}", detail=unread.detail)
        except READ_ERRORS as error:
            position = find_next_record(stream, after=last_start) if archive is stream else None
            lost = "what follows in the file is lost" if position is None else f"went on at byte {position}"
            ledger.read += 1
            detail = f"{error}; {lost}"
            ledger.fail("archive_corrupt", record=number, name=f"after byte {last_start}", detail=detail)
            number += 1
            if position is not None:
                stream.seek(position)


def _open_archive(stream: CountedStream) -> CountedStream | io.BufferedReader:
    """Undo the compressions that fastwarc does not know; it reads gzip and zstd itself, and tells where records are."""
    if not stream.seekable():
        return stream
    magic = stream.read(MAGIC_BYTES)
    stream.seek(0)
    return decompress(stream) if magic.startswith(FOREIGN_MAGIC) else stream


def _read_record(record: WarcRecord, *, number: int, ledger: Ledger, max_record_bytes: int) -> Document | None:
    """Turn a record into a document, or count why it is none."""
    ledger.read += 1
    url = (record.headers.get("WARC-Target-URI") or "").strip("<> ")
    try:
        return _build_document(record, number=number, url=url, ledger=ledger, max_record_bytes=max_record_bytes)
    except DroppedError as error:
        ledger.drop(error.reason, record=number, name=url, url=url, detail=error.detail)
    except BrokenRecordError as error:
        ledger.fail(str(error), record=number, name=url, url=url)
    except READ_ERRORS:
        # The iterator meets the same damage again and cannot go on; there it is counted.
        ledger.read -= 1
        raise
    return None


class BrokenRecordError(Exception):
    """The record is not what its headers say."""


def _build_document(
    record: WarcRecord, *, number: int, url: str, ledger: Ledger, max_record_bytes: int
) -> Document | None:
    kind = str(record.record_type)
    headers = record.http_headers if record.is_http_parsed else None
    if kind == "conversion":
        media_type: MediaType = "plain"
    elif kind in ("response", "resource"):
        media_type = _media_type_of(record, kind, ledger)
    else:
        raise DroppedError(f"record_type_{kind}")
    content = record.reader.read(max_record_bytes + 1)
    if len(content) > max_record_bytes:
        raise DroppedError("record_too_large", f"more than {max_record_bytes} bytes")
    if len(content) < record.content_length:
        raise BrokenRecordError("record_truncated")
    return Document(
        record=number,
        media_type=media_type,
        content=content,
        offset=record.stream_pos,
        id=(record.record_id or "").strip("<> "),
        url=url,
        is_from_web=kind != "conversion",
        charset=record.http_charset if headers is not None else "utf-8" if kind == "conversion" else None,
        codings=_codings_of(headers) if headers is not None else (),
    )


def _media_type_of(record: WarcRecord, kind: str, ledger: Ledger) -> MediaType:
    if record.is_http_parsed:
        status = str(record.http_headers.status_code)
        if not HTTP_STATUS.fullmatch(status):
            raise BrokenRecordError("http_header_invalid")
        if status != "200":
            raise DroppedError(f"http_status_{status}")
        declared = record.http_content_type
    elif kind == "response" and record.content_length == 0:
        raise BrokenRecordError("http_header_invalid")
    else:
        declared = record.headers.get("Content-Type")
    media_type = (declared or "").partition(";")[0].strip().lower()
    if not media_type or media_type in UNTOLD_TYPES:
        ledger.note("content_type_missing")
        return "unknown"
    if media_type not in MEDIA_TYPES:
        raise DroppedError("content_type_not_text", media_type)
    return MEDIA_TYPES[media_type]


def _codings_of(headers: object) -> tuple[str, ...]:
    """Encodings to undo, outermost first: the transfer's, then the content's, each in reverse order of application."""
    codings: list[str] = []
    for name in ("Transfer-Encoding", "Content-Encoding"):
        value = headers.get(name) or ""  # type: ignore[attr-defined]
        codings += reversed([part.strip().lower() for part in value.split(",") if part.strip()])
    return tuple(coding for coding in codings if coding != "identity")
