"""Turn bytes of unknown or wrongly declared encoding into text."""

import codecs
import re
from collections.abc import Iterator
from itertools import chain

from resiliparse.parse.encoding import detect_encoding, map_encoding_to_html5

from data_tools.ledger import Ledger

META_BYTES = 4096
MAX_INVALID_SHARE = 0.005
"""Of characters: pages with a few broken ones (cut, pasted from elsewhere) are in the encoding that they declare."""

WESTERN = "cp1252"
"""What browsers read ISO-8859-1 and US-ASCII as: https://encoding.spec.whatwg.org/#names-and-labels"""

SUPERSETS = {
    "gbk": "gb18030",
    "gb2312": "gb18030",
    "euc_kr": "cp949",
    "shift_jis": "cp932",
    "big5": "big5hkscs",
    # The letters of Ukrainian in place of signs that draw boxes.
    "koi8-r": "koi8-u",
    "ascii": WESTERN,
    "iso8859-1": WESTERN,
    "iso8859-9": "cp1254",
    "iso8859-11": "cp874",
}
"""Encodings that hold all characters of another, and are often meant by its name."""
_OTHER_LABELS = re.compile(
    r"(?:x-)?((?:cp|windows|win|iso|latin|koi8|mac|gb|big5|euc|shift|hz|uhc|johab|tis|ks)[\w.:-]*|utf-?(?:8|16|32)(?:-?[lb]e)?)",
    re.IGNORECASE,
)
"""Names of encodings for text; Python's codecs hold others as well."""

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
_ESCAPES = (b"\x00", b"\x1b", b"~{")
"""What tells ISO-2022, UTF-16 and HZ, which are made of ASCII bytes only, from ASCII."""
_ISO_2022 = re.compile(rb"\x1b\$(?:[@AB]|[()][ACDG])")

EXAMINED_CHARACTERS = 50_000
"""From the first one beyond ASCII on."""
_BEYOND_ASCII = re.compile(r"[^\x00-\x7f]")
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1f\x80-\x84\x86-\x9f]")
_ACCENTED = re.compile(r"[\xa1-\u024f]+")
# Both begin with what they look for, and look back then: five times as fast as beginning with the letter before it.
_SIGN = r"[\xa1-\xa9\xab\xac\xae-\xb4\xb6\xb8\xb9\xbb-\xbf\xd7\xf7]"
"""Signs but those that words do hold (ª º ·)."""
_SIGN_WITHIN = re.compile(rf"{_SIGN}(?<=[A-Za-z]{_SIGN})(?=[a-z])")
_LETTER = r"[\u0250-\u02ff\u0370-\u1dff\u2100-\uffff]"
"""Of scripts other than Latin; neither punctuation such as ’ and –, nor accents that stand for themselves."""
_LETTERS_WITHIN = re.compile(
    # One or two, also at a word's ends: ’s of Windows is a letter of Chinese and Korean.
    rf"{_LETTER}(?:(?<=[A-Za-z]{_LETTER}){_LETTER}?(?!{_LETTER})|(?<!{_LETTER}{_LETTER}){_LETTER}?(?=[a-z]))"
)
ACCENTED_IN_A_ROW = 3
"""No language with Latin letters accents so many of them often."""
MAX_ODD_SHARE = 0.3


def decode_text(content: bytes, *, declared: str | None, is_html: bool, ledger: Ledger) -> str:
    """Decode by byte order mark, as UTF-8 if it is, else as declared, else by detection; never fails.

    UTF-8 comes before what is declared: other text hardly ever is valid UTF-8, and servers often declare wrongly. What
    is declared comes before detection only if the text that it gives looks like one.
    """
    for mark, encoding in _BYTE_ORDER_MARKS:
        if content.startswith(mark):
            return content[len(mark) :].decode(encoding, "replace")
    # Looking for two bytes takes thirty times as long as for one.
    if not any(escape[:1] in content and escape in content for escape in _ESCAPES):
        try:
            return content.decode("utf-8")
        except UnicodeDecodeError:
            pass
    declarations = list(_list_declared(content, declared, is_html))
    best, best_invalid, best_encoding = "", float("inf"), ""
    tried: set[str] = set()
    for encoding in chain(_find_escaped(content), declarations, _guess(content)):
        if encoding in tried:
            continue
        tried.add(encoding)
        text = content.decode(encoding, "replace")
        invalid = text.count("\ufffd")
        if _is_nearly_valid(text, invalid) and _looks_like_text(text):
            best, best_invalid, best_encoding = text, invalid, encoding
            break
        if invalid < best_invalid:
            best, best_invalid, best_encoding = text, invalid, encoding
    if best_invalid > MAX_INVALID_SHARE * len(best):
        ledger.note("encoding_unclear")
    elif best_invalid:
        ledger.note("invalid_bytes_replaced")
    if declarations and best_encoding not in declarations:
        ledger.note("charset_wrong")
    return best


def _list_declared(content: bytes, declared: str | None, is_html: bool) -> Iterator[str]:
    """Return what the server and the page itself declare, as names of Python's codecs."""
    by_server = _find_codec(declared)
    meta = _META_CHARSET.search(content[:META_BYTES]) if is_html else None
    by_page = _find_codec(meta[1].decode("ascii", "replace")) if meta else None
    if by_page and by_page.startswith("utf-16"):
        # A page whose charset could be read in its own bytes is not in UTF-16.
        by_page = None
    # Servers name the Western encoding of themselves, for all that they have; whoever made a page knew it.
    names = (by_page, by_server) if by_server == WESTERN else (by_server, by_page)
    yield from filter(None, names)


def _find_codec(label: str | None) -> str | None:
    """Name of the codec that a label stands for; None for one that nobody knows."""
    if not label:
        return None
    name = map_encoding_to_html5(label, fallback_utf8=False)
    if name is None and (other := _OTHER_LABELS.fullmatch(label.strip())):
        name = re.sub(r"^win(?:dows)?-?(?=\d)", "cp", other[1].lower())
    if name is None:
        return None
    try:
        name = codecs.lookup(name).name
    except LookupError:
        return None
    return SUPERSETS.get(name, name)


def _find_escaped(content: bytes) -> Iterator[str]:
    """ISO-2022 writes itself into the text, which then cannot be anything else."""
    if _ISO_2022.search(content):
        yield from filter(None, [_find_codec(detect_encoding(content))])


def _guess(content: bytes) -> Iterator[str]:
    """Encodings that the bytes look like, the likeliest first."""
    if _is_nearly_utf8(content):
        yield "utf-8"
    yield from _guess_utf16(content)
    found = _find_codec(detect_encoding(content)) or "utf-8"
    yield found
    if found == "utf-8":
        # resiliparse 2.0.1 has no name for what its detection calls UHC, and says UTF-8.
        yield "cp949"
        yield "utf-8"
    yield WESTERN


def _guess_utf16(content: bytes) -> Iterator[str]:
    """UTF-16 without a mark: the upper bytes of ASCII characters are zeros, on one side."""
    zeros = content[::2].count(0), content[1::2].count(0)
    if sum(zeros) > len(content) * 0.1:
        yield "utf-16-be" if zeros[0] > zeros[1] else "utf-16-le"


def _is_nearly_utf8(content: bytes) -> bool:
    text = content.decode("utf-8", "replace")
    invalid = text.count("\ufffd")
    beyond_ascii = sum(1 for character in text if character > "\x7f")
    return 0 < invalid * 20 < beyond_ascii


def _is_nearly_valid(text: str, invalid: int) -> bool:
    """Whether few characters are invalid, and fewer than were decoded beyond ASCII: a lone byte of another encoding in
    ASCII text is valid in neither UTF-8 nor an encoding of two bytes, and says nothing for either."""
    if not invalid:
        return True
    return 2 * invalid < _count_beyond_ascii(text) and invalid <= MAX_INVALID_SHARE * len(text)


def _looks_like_text(text: str) -> bool:
    """Whether decoded bytes can be text: most wrong encodings put signs and letters of other scripts into words, make
    words of accented letters alone, or leave control characters."""
    if len(_CONTROL.findall(text)) > MAX_INVALID_SHARE * len(text):
        return False
    first = _BEYOND_ASCII.search(text)
    start = max(0, first.start() - 1) if first else 0
    text = text[start : start + EXAMINED_CHARACTERS]
    accented = [len(letters) for letters in _ACCENTED.findall(text)]
    if sum(size for size in accented if size >= ACCENTED_IN_A_ROW) > MAX_ODD_SHARE * sum(accented):
        return False
    num_odd = len(_SIGN_WITHIN.findall(text)) + len(_LETTERS_WITHIN.findall(text))
    return num_odd <= MAX_ODD_SHARE * _count_beyond_ascii(text)


def _count_beyond_ascii(text: str) -> int:
    return len(text) - len(text.encode("ascii", "ignore"))
