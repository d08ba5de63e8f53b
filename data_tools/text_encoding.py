"""Turn bytes of unknown or wrongly declared encoding into text."""

import re
from collections.abc import Iterator

from resiliparse.parse.encoding import detect_encoding, map_encoding_to_html5

from data_tools.ledger import Ledger

META_BYTES = 4096
MAX_INVALID_SHARE = 0.005
"""Of characters: pages with a few broken ones (cut, pasted from elsewhere) are in the encoding that they declare."""

_META_CHARSET = re.compile(
    rb"""<(?:meta\b[^>]{0,200}?charset|\?xml\b[^>]{0,100}?encoding)\s*=\s*["']?\s*([\w.:-]{2,40})""", re.IGNORECASE
)
_BYTE_ORDER_MARKS = (
    (b"\xef\xbb\xbf", "utf-8"),
    (b"\xff\xfe\x00\x00", "utf-32-le"),
    (b"\x00\x00\xfe\xff", "utf-32-be"),
    (b"\xff\xfe", "utf-16-le"),
    (b"\xfe\xff", "utf-16-be"),
)
_ESCAPES = re.compile(rb"[\x00\x1b]|~\{")
"""What tells ISO-2022, UTF-16 and HZ, which are made of ASCII bytes only, from ASCII."""


def decode_text(content: bytes, *, declared: str | None, is_html: bool, ledger: Ledger) -> str:
    """Decode by byte order mark, as UTF-8 if it is, else as declared, else by detection; never fails.

    UTF-8 comes before what is declared: other text hardly ever is valid UTF-8, and servers often declare wrongly.
    """
    for mark, encoding in _BYTE_ORDER_MARKS:
        if content.startswith(mark):
            return content[len(mark) :].decode(encoding, "replace")
    if not _ESCAPES.search(content):
        try:
            return content.decode("utf-8")
        except UnicodeDecodeError:
            pass
    best, best_invalid = "", float("inf")
    for encoding in _candidates(content, declared, is_html):
        try:
            text = content.decode(encoding, "replace")
        except LookupError:
            continue
        invalid = text.count("\ufffd")
        if not invalid:
            return text
        if invalid <= MAX_INVALID_SHARE * len(text):
            ledger.note("invalid_bytes_replaced")
            return text
        if invalid < best_invalid:
            best, best_invalid = text, invalid
    ledger.note("encoding_unclear")
    return best


def _candidates(content: bytes, declared: str | None, is_html: bool) -> Iterator[str]:
    """Encodings to try, the likeliest first."""
    if _is_nearly_utf8(content):
        yield "utf-8"
    names = [declared]
    if is_html and (meta := _META_CHARSET.search(content[:META_BYTES])):
        names.append(meta[1].decode("ascii", "replace"))
    for name in names:
        encoding = map_encoding_to_html5(name, fallback_utf8=False) if name else None
        # A page whose charset could be read in its own bytes is not in UTF-16.
        if encoding and not (encoding.startswith("utf-16") and b"\0" not in content):
            yield encoding
    yield detect_encoding(content) or "utf-8"
    yield "utf-8"
    yield "cp1252"


def _is_nearly_utf8(content: bytes) -> bool:
    text = content.decode("utf-8", "replace")
    invalid = text.count("\ufffd")
    beyond_ascii = sum(1 for character in text if character > "\x7f")
    return 0 < invalid * 20 < beyond_ascii
