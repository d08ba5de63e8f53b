"""Undo the encodings that a web record's payload was stored with, and find out what it really is."""

import io
import re
import zlib
from collections.abc import Callable
from typing import Any, BinaryIO

from fastwarc.stream_io import BrotliReader, ChunkedReader, GzipReader, ZstdReader

from data_tools.document import Document, DroppedError, FailedError, MediaType
from data_tools.ledger import Ledger

SNIFFED_BYTES = 4096
READ_BYTES = 1 << 20
MAX_CODINGS = 4
"""Browsers send no more; each one may multiply the work."""

_READERS: dict[str, Callable[[BinaryIO], Any]] = {
    "chunked": ChunkedReader,
    "gzip": GzipReader,
    "x-gzip": GzipReader,
    "br": BrotliReader,
    "zstd": ZstdReader,
}
_MAGIC_BYTES = {"gzip": b"\x1f\x8b", "x-gzip": b"\x1f\x8b", "zstd": b"\x28\xb5\x2f\xfd"}
_CHUNK_SIZE = re.compile(rb"[0-9a-fA-F]{1,8}[ \t]*(?:;[^\r\n]*)?\r?\n")

# Signatures of letters alone begin texts about these formats too: each stands with the bytes that must follow it.
_BINARY_START = re.compile(
    rb"%PDF-\d\.\d\s|%!PS(?:-Adobe-\d|[\r\n])|\x89PNG|GIF8[79]a(?=.{0,6}[\x00-\x08\x0e-\x1a])|\xff\xd8\xff|PK\x03\x04"
    rb"|RIFF.{4}(?:WAVE|WEBP|AVI |ACON|RMID|CDXA)|\x1f\x8b\x08|BZh[1-9](?:1AY&SY|\x17rE8P\x90)|Rar!\x1a\x07|\x7fELF"
    rb"|\xd0\xcf\x11\xe0|OggS\x00|ID3[\x02-\x04][\x00-\x0f]|wOF[F2](?:\x00\x01\x00\x00|OTTO|true)|\xfd7zXZ|7z\xbc\xaf",
    re.DOTALL,
)
_TEXT_MARKS = (b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")
_HTML_START = re.compile(
    rb"\s*(?:<\?xml[^>]{0,200}>\s*)?(?:<!--.{0,1000}?-->\s*)*"
    rb"<(?:!doctype\s+html|html|head|body|title|meta|script|link|style|table|div|h[1-6]|p|br|font|center|a)[\s>/]",
    re.IGNORECASE | re.DOTALL,
)
_PAGE_START = re.compile(rb"<(?:!doctype\s+html|html|head|body|title|meta|script|link|style)[\s>]", re.IGNORECASE)
"""What only a page has; plain text, such as a README in Markdown, may begin with a heading or a picture."""
_BLOCK_END = re.compile(rb"</(?:p|h[1-6]|div|table|tr|li|ul|ol|body|html)\s*>|<br\b", re.IGNORECASE)
_BLANK_LINE = re.compile(rb"\n[ \t\r]*\n\s*(?=[^\s<])")
PAGE_START_BYTES = 256
EXAMINED_BYTES = 64 << 10
_XML_START = re.compile(rb"\s*<(?:\?xml|rss|feed|svg|urlset|sitemapindex)\b", re.IGNORECASE)
_ANY_TAG = re.compile(rb"<[a-zA-Z!/]")


def undo_codings(document: Document, ledger: Ledger, *, max_bytes: int) -> None:
    """Replace a document's content by what its codings were applied to.

    Archives often keep the headers of codings that they have undone already; such content is left as it is. What can be
    read of a cut payload is kept.
    """
    if len(document.codings) > MAX_CODINGS:
        raise DroppedError("content_coding_unknown", ", ".join(document.codings))
    for coding in document.codings:
        if coding != "deflate" and coding not in _READERS:
            raise DroppedError("content_coding_unknown", coding)
        if not _is_coded(document.content, coding):
            ledger.note("content_coding_undone_before")
            continue
        decoded, is_whole = _decode(document.content, coding, max_bytes)
        if len(decoded) > max_bytes:
            raise DroppedError("record_too_large", f"more than {max_bytes} bytes after {coding}")
        if not is_whole:
            if not decoded and coding == "br" and _HTML_START.match(document.content[:SNIFFED_BYTES]):
                # Brotli has no mark of its own.
                ledger.note("content_coding_undone_before")
                continue
            if not decoded:
                raise FailedError("content_coding_corrupt", coding)
            ledger.note("content_coding_truncated")
        document.content = decoded
    document.codings = ()


def _is_coded(content: bytes, coding: str) -> bool:
    if coding == "chunked":
        return bool(_CHUNK_SIZE.match(content[:64]))
    if coding == "deflate":
        return not _HTML_START.match(content[:SNIFFED_BYTES])
    return content.startswith(_MAGIC_BYTES.get(coding, b""))


def _decode(content: bytes, coding: str, max_bytes: int) -> tuple[bytes, bool]:
    """Return the decoded bytes, at most one step more than max_bytes, and whether they are all."""
    if coding == "deflate":
        return _inflate(content, max_bytes)
    decoded: list[bytes] = []
    size = 0
    try:
        reader = _READERS[coding](io.BytesIO(content))
        while size <= max_bytes and (piece := reader.read(READ_BYTES)):
            decoded.append(piece)
            size += len(piece)
    except (OSError, EOFError, ValueError):
        return b"".join(decoded), False
    return b"".join(decoded), True


def _inflate(content: bytes, max_bytes: int) -> tuple[bytes, bool]:
    """Servers send deflate with and without zlib's header."""
    for window in (zlib.MAX_WBITS, -zlib.MAX_WBITS):
        decompressor = zlib.decompressobj(window)
        try:
            decoded = decompressor.decompress(content, max_bytes + 1)
        except zlib.error:
            continue
        if decoded:
            return decoded, decompressor.eof
    return b"", False


def detect_media_type(document: Document, ledger: Ledger) -> MediaType:
    """Return what a document's content is, whatever its server says; only records of the web are doubted.

    Raises:
        DroppedError: it is no text.
    """
    start = document.content[:SNIFFED_BYTES]
    declared = document.media_type
    if declared in ("wikitext", "json"):
        return declared
    if _BINARY_START.match(start) or _has_binary_zeros(start):
        raise DroppedError("content_not_text", repr(start[:8]))
    if not document.is_from_web:
        return declared
    plain_start = start.replace(b"\0", b"").removeprefix(b"\xef\xbb\xbf").removeprefix(b"\xff\xfe")
    is_html = bool(_HTML_START.match(plain_start)) and _is_page(document.content)
    if declared == "unknown":
        if not is_html and _XML_START.match(plain_start) and b"<html" not in plain_start:
            raise DroppedError("content_type_not_text", "xml")
        return "html" if is_html else "plain"
    if declared == "plain" and is_html:
        ledger.note("content_type_wrong")
        return "html"
    if declared == "html" and not is_html and not _ANY_TAG.search(document.content.replace(b"\0", b"")):
        ledger.note("content_type_wrong")
        return "plain"
    return declared


def _is_page(content: bytes) -> bool:
    """Whether what begins with a tag is a page, and not plain text that uses some: with blank lines for paragraphs."""
    content = content[:EXAMINED_BYTES].replace(b"\0", b"")
    if _PAGE_START.search(content[:PAGE_START_BYTES]):
        return True
    return len(_BLANK_LINE.findall(content)) * 2 <= len(_BLOCK_END.findall(content))


def _has_binary_zeros(start: bytes) -> bool:
    """Return whether there are zero bytes that UTF-16 does not account for."""
    zeros = start.count(0)
    if not zeros or start.startswith(_TEXT_MARKS[1:]):
        return False
    if zeros * 64 < len(start):
        return False
    on_one_side = max(start[::2].count(0), start[1::2].count(0))
    return not (on_one_side > 0.95 * zeros and zeros > len(start) * 0.2)
