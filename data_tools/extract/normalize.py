"""Bring text into one form, and drop documents for their size, or when they could not be decoded."""

import re
import unicodedata

from data_tools.document import Document
from data_tools.ledger import Ledger

# Control characters but tab and line feed, lone surrogates, soft hyphen, zero-width space, word joiner, byte order
# mark, non-characters. Joiners (U+200C, U+200D) and direction marks stay: scripts need them.
_REMOVED_CLASS = "\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\ud800-\udfff\u00ad\u200b\u2060\ufeff\ufdd0-\ufdef\ufffe\uffff"
_LINE_ENDS = "\r\x0b\x0c\x85\u2028\u2029"
_SPACES = "\u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f"
"""The ideographic space stays: it indents Chinese paragraphs."""
_REMOVED = re.compile(f"[{_REMOVED_CLASS}]")
_FORBIDDEN = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")
# One class for all: looking at every character takes longer than what is done with the few that are found.
_REPLACED = re.compile(f"[{_REMOVED_CLASS}{_LINE_ENDS}{_SPACES}]")
_REPLACEMENTS = {**dict.fromkeys(_LINE_ENDS, "\n"), **dict.fromkeys(_SPACES, " ")}
_BLANK_LINES = re.compile(r"\n{3,}")


def normalize_text(text: str) -> str:
    """Write text in NFC, with line feeds, plain spaces, single blank lines and no control characters."""
    text = text.replace("\r\n", "\n")
    text = _REPLACED.sub(_replace, text)
    # NFC, not NFKC: that one would turn 10⁶ into 106.
    if not unicodedata.is_normalized("NFC", text):
        text = unicodedata.normalize("NFC", text)
    text = "\n".join([line.rstrip() for line in text.split("\n")])
    if "\n\n\n" in text:
        text = _BLANK_LINES.sub("\n\n", text)
    return text.strip()


def clean_characters(text: str) -> str:
    """Remove what no shard may hold, and write line ends as line feeds; everything else stays as it is."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return _FORBIDDEN.sub("", text)


def _replace(found: re.Match[str]) -> str:
    return _REPLACEMENTS.get(found[0], "")


def normalize(document: Document, ledger: Ledger) -> None:
    """Normalise a document's text and title."""
    if "\ufffd" in document.text:
        ledger.note("replacement_characters")
    document.text = clean_characters(document.text) if document.keep_whitespace else normalize_text(document.text)
    document.title = " ".join(normalize_text(document.title).split())
    # Both end up in tables that hold UTF-8 only.
    document.url = _REMOVED.sub("", document.url)
    document.id = _REMOVED.sub("", document.id)
