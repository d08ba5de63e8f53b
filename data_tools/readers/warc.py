"""Read web archives (WARC, WET) record by record, continuing after damaged places."""

import base64
import hashlib
import io
from collections.abc import Iterator

from fastwarc import ArchiveIterator, WarcRecord

from data_tools.document import Document, DroppedError, MediaType
from data_tools.errors import READ_ERRORS, UnreadableInputError, find_reason
from data_tools.inputs.files import InputFile
from data_tools.inputs.streams import MAGIC_BYTES, CountedStream, decompress
from data_tools.ledger import Ledger
from data_tools.readers.arc import read_arc, starts_arc
from data_tools.readers.gzip_members import find_next_record, find_unread_end
from data_tools.readers.http_record import (
    HTTP_START,
    BrokenRecordError,
    check_status,
    judge_content_type,
    list_codings,
    read_charset,
    read_http_head,
)

FOREIGN_MAGIC = (b"BZh", b"\xfd7zXZ")
DIGESTS = ("sha1", "sha256", "sha512", "md5")


def read_archive(
    file: InputFile, *, stream: CountedStream, ledger: Ledger, max_record_bytes: int
) -> Iterator[Document]:
    """Yield the documents of a web archive, WARC or ARC; every other record is counted with a reason."""
    try:
        archive = _open_archive(stream)
        is_arc = starts_arc(archive)
    except READ_ERRORS as error:
        ledger.read += 1
        ledger.fail(_reason_of(error), record=0, detail=f"nothing of it was read: {error}")
        return
    if is_arc:
        yield from read_arc(stream, archive=archive, ledger=ledger, max_record_bytes=max_record_bytes)
    else:
        yield from _read_warc(file, stream=stream, archive=archive, ledger=ledger, max_record_bytes=max_record_bytes)


def _read_warc(
    file: InputFile,
    *,
    stream: CountedStream,
    archive: CountedStream | io.BufferedReader,
    ledger: Ledger,
    max_record_bytes: int,
) -> Iterator[Document]:
    """Read WARC and WET.

    A gzip member that cannot be decompressed costs the records in it; reading continues at the next intact one.
    """
    position: int | None = 0
    number = 0
    while position is not None:
        last_start = position
        try:
            # Quirks mode also accepts bare line feeds, at no cost (measured on well-formed archives).
            for record in ArchiveIterator(archive, quirks_mode=True, strict_mode=False):
                last_start = record.stream_pos
                document = _read_record(
                    record,
                    number=number,
                    ledger=ledger,
                    max_record_bytes=max_record_bytes,
                    wrong_digests=file.source.wrong_digests,
                )
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
            position = _find_after_damage(error, stream, after=last_start) if archive is stream else None
            lost = "what follows in the file is lost" if position is None else f"went on at byte {position}"
            ledger.read += 1
            ledger.fail(_reason_of(error), record=number, name=f"after byte {last_start}", detail=f"{error}; {lost}")
            number += 1
            if position is not None:
                stream.seek(position)


def _reason_of(error: BaseException) -> str:
    return find_reason(error, truncated="archive_truncated", corrupt="archive_corrupt")


def _find_after_damage(error: BaseException, stream: CountedStream, *, after: int) -> int | None:
    """Return where to continue; None if the stream yields no more bytes at all."""
    if isinstance(error, UnreadableInputError):
        return None
    try:
        return find_next_record(stream, after=after)
    except READ_ERRORS:
        return None


def _open_archive(stream: CountedStream) -> CountedStream | io.BufferedReader:
    """Undo the compressions that fastwarc does not support; it reads gzip and zstd itself, and reports offsets."""
    return decompress(stream) if stream.peek(MAGIC_BYTES).startswith(FOREIGN_MAGIC) else stream


def _read_record(
    record: WarcRecord, *, number: int, ledger: Ledger, max_record_bytes: int, wrong_digests: str
) -> Document | None:
    """Turn a record into a document, or count the reason why not."""
    ledger.read += 1
    url = (record.headers.get("WARC-Target-URI") or "").strip("<> ")
    try:
        document = _build_document(record, number=number, url=url, ledger=ledger, max_record_bytes=max_record_bytes)
        if wrong_digests != "ignore" and _has_wrong_digest(record, document.content):
            if wrong_digests == "fail":
                raise BrokenRecordError("digest_wrong")
            ledger.note("digest_wrong")
        return document
    except DroppedError as error:
        ledger.drop(error.reason, record=number, name=url, url=url, detail=error.detail)
    except BrokenRecordError as error:
        ledger.fail(str(error), record=number, name=url, url=url)
    except READ_ERRORS:
        # The iterator meets the same damage again and cannot continue; it is counted there.
        ledger.read -= 1
        raise
    return None


def _build_document(record: WarcRecord, *, number: int, url: str, ledger: Ledger, max_record_bytes: int) -> Document:
    kind = str(record.record_type)
    if kind not in ("conversion", "response", "resource"):
        raise DroppedError(f"record_type_{kind}")
    media_type: MediaType = "plain"
    charset: str | None = "utf-8"
    codings: tuple[str, ...] = ()
    start = b""
    if kind != "conversion" and record.is_http_parsed:
        check_status(str(record.http_headers.status_code))
        media_type, charset = judge_content_type(record.http_content_type, ledger), record.http_charset
        codings = list_codings(record.http_headers.get)
    elif kind != "conversion":
        if kind == "response" and record.content_length == 0:
            raise BrokenRecordError("http_header_invalid")
        start = record.reader.read(len(HTTP_START))
        if start != HTTP_START:
            media_type, charset = judge_content_type(record.headers.get("Content-Type"), ledger), None
    content = start + record.reader.read(max_record_bytes + 1 - len(start))
    if len(content) > max_record_bytes:
        raise DroppedError("record_too_large", f"more than {max_record_bytes} bytes")
    if len(content) < record.content_length:
        raise BrokenRecordError("record_truncated")
    if start == HTTP_START:
        # Some writers declare the page's content type for the record, but keep the server's headers.
        head = read_http_head(content)
        if head is None:
            raise BrokenRecordError("http_header_invalid")
        check_status(head.status)
        media_type, charset = (
            judge_content_type(head.get("Content-Type"), ledger),
            read_charset(head.get("Content-Type")),
        )
        codings, content = list_codings(head.get), content[head.size :]
    return Document(
        record=number,
        media_type=media_type,
        content=content,
        offset=record.stream_pos,
        id=(record.record_id or "").strip("<> "),
        url=url,
        is_from_web=kind != "conversion",
        charset=charset,
        codings=codings,
    )


def _has_wrong_digest(record: WarcRecord, content: bytes) -> bool:
    """Return whether the content does not match the digest in the header; unknown kinds of digests match."""
    is_payload = record.is_http_parsed or len(content) < record.content_length
    name = "WARC-Payload-Digest" if is_payload else "WARC-Block-Digest"
    algorithm, _, declared = (record.headers.get(name) or "").partition(":")
    algorithm = algorithm.strip().lower().replace("-", "")
    if algorithm not in DIGESTS or record.headers.get("WARC-Truncated"):
        return False
    digest = hashlib.new(algorithm, content, usedforsecurity=False)
    declared = declared.strip()
    if len(declared) == 2 * digest.digest_size:
        return declared.lower() != digest.hexdigest()
    return declared.rstrip("=").upper() != base64.b32encode(digest.digest()).decode().rstrip("=")
