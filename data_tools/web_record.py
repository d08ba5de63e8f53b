"""What the headers of an archived web record say about its content; for WARC and ARC files alike."""

import re
from collections.abc import Callable

from data_tools.document import DroppedError, MediaType
from data_tools.ledger import Ledger

MEDIA_TYPES: dict[str, MediaType] = {
    "text/html": "html",
    "application/xhtml+xml": "html",
    "application/html": "html",
    "text/plain": "plain",
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

_HTTP_STATUS = re.compile(r"[1-5]\d\d")


class BrokenRecordError(Exception):
    """The record is not what its headers say."""


def check_status(status: str) -> None:
    """Raise for every page but those that were answered with 200."""
    if not _HTTP_STATUS.fullmatch(status):
        raise BrokenRecordError("http_header_invalid")
    if status != "200":
        raise DroppedError(f"http_status_{status}")


def judge_content_type(declared: str | None, ledger: Ledger) -> MediaType:
    """What a content type stands for.

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
    """Encodings to undo, outermost first: the transfer's, then the content's, each in reverse order of application."""
    codings: list[str] = []
    for name in ("Transfer-Encoding", "Content-Encoding"):
        value = get_header(name) or ""
        codings += reversed([part.strip().lower() for part in value.split(",") if part.strip()])
    return tuple(coding for coding in codings if coding != "identity")
