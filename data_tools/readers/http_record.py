"""Interpret the HTTP headers of archived web records, for WARC and ARC files."""

import re
from collections.abc import Callable
from dataclasses import dataclass

from data_tools.document import DroppedError, MediaType
from data_tools.ledger import Ledger

MEDIA_TYPES: dict[str, MediaType] = {
    "text/html": "html",
    "application/xhtml+xml": "html",
    "application/html": "html",
    "text/plain": "plain",
    "text/markdown": "plain",
    "text/x-markdown": "plain",
    "text/x-web-markdown": "plain",
    "text/x-rst": "plain",
    "text/prs.fallenstein.rst": "plain",
}
UNTOLD_TYPES = {
    "application/octet-stream",
    "binary/octet-stream",
    "unknown/unknown",
    "unknown",
    "no-type",
    "text/*",
    "*/*",
}
"""Content types that servers and crawlers send when they do not know."""

_CHARSET = re.compile(r"charset\s*=\s*[\"']?([\w.:-]+)", re.IGNORECASE)
_HTTP_STATUS = re.compile(r"[1-5]\d\d")


HTTP_START = b"HTTP/"
MAX_HEADER_BYTES = 256 << 10
_HEADER_END = re.compile(rb"\r?\n\r?\n")
_STATUS_LINE = re.compile(rb"HTTP/\d(?:\.\d)? +(\d{3})\b[^\r\n]*\r?\n")


@dataclass(frozen=True, kw_only=True)
class HttpAnswer:
    """The head of a server's answer."""

    status: str
    headers: dict[str, str]
    """By names in small letters."""
    size: int
    """Bytes up to the content."""

    def get(self, name: str) -> str | None:
        """Return a header, whatever letters its name is asked for with."""
        return self.headers.get(name.lower())


def read_http_head(block: bytes) -> HttpAnswer | None:
    """The head that a record's block begins with although its record does not say so; None where there is none."""
    status = _STATUS_LINE.match(block)
    end = _HEADER_END.search(block, status.end() - 2, MAX_HEADER_BYTES) if status else None
    if status is None or end is None:
        return None
    headers: dict[str, str] = {}
    for line in block[status.end() : end.start()].decode("iso-8859-1").splitlines():
        name, separator, value = line.partition(":")
        if separator:
            headers.setdefault(name.strip().lower(), value.strip())
    return HttpAnswer(status=status[1].decode(), headers=headers, size=end.end())


def read_charset(content_type: str | None) -> str | None:
    """Return the encoding that a content type names."""
    charset = _CHARSET.search(content_type or "")
    return charset[1] if charset else None


class BrokenRecordError(Exception):
    """The record is not what its headers say."""


def check_status(status: str) -> None:
    """Raise for every response whose status is not 200."""
    if not _HTTP_STATUS.fullmatch(status):
        raise BrokenRecordError("http_header_invalid")
    if status != "200":
        raise DroppedError(f"http_status_{status}")


def judge_content_type(declared: str | None, ledger: Ledger) -> MediaType:
    """Return the media type of a content type.

    Raises:
        DroppedError: for no text.
    """
    media_type = (declared or "").partition(";")[0].strip().lower()
    if not media_type or media_type in UNTOLD_TYPES:
        ledger.note("content_type_missing")
        return "unknown"
    if media_type not in MEDIA_TYPES:
        raise DroppedError("content_type_not_text", media_type)
    return MEDIA_TYPES[media_type]


def list_codings(get_header: Callable[[str], str | None]) -> tuple[str, ...]:
    """List the encodings to undo, outermost first: transfer, then content encodings, each in reverse order."""
    codings: list[str] = []
    for name in ("Transfer-Encoding", "Content-Encoding"):
        value = get_header(name) or ""
        codings += reversed([part.strip().lower() for part in value.split(",") if part.strip()])
    return tuple(coding for coding in codings if coding != "identity")
