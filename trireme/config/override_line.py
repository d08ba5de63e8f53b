"""Parse one override of a command line with Hydra's grammar, and suggest quotes for what it does not read.

Hydra reads bare text of ASCII letters, digits and `/-\\+.$%*@?|:_`. Characters outside its grammar (other
letters, `~`, `#`, `&`) are read here as part of the surrounding text, as if it were quoted: `[~/a,/数据/b]`. Characters
of its grammar (`=`, parentheses, brackets, quotes) must be quoted by the user, and a message shows how.
"""

import contextlib
import re
import shlex
import string
from collections.abc import Callable

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString
from hydra.errors import HydraException

_BARE = frozenset(string.ascii_letters + string.digits + "_ \t/-\\+.$%*@?|:")
_MEANINGFUL = frozenset("=()[]{},'\"")
_KEY = re.compile(r"[+~]*[A-Za-z_$][\w$./@-]*", re.ASCII)
_PLAIN_PATH = re.compile(r"\.{0,2}/[\w./-]+", re.ASCII)
"""Needs no quotes, and is not a number."""
_TOKEN = re.compile(
    r"""
    (?P<space>\s+)
    | (?P<quoted>(?:"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*')(?=\s*(?:[\]},]|$)))
    | (?P<mark>[\[\]{},])
    | (?P<word>(?:\$\{[^}]*\}|\\.|[^\[\]{},])+)
    """,
    re.VERBOSE | re.DOTALL,
)
_MAPPING_KEY = re.compile(r"[^:\[\]{},]*:\s*")
_ESCAPED = re.compile(r"\\([\\()\[\]{}:=, \t])")
_INTERPOLATION = re.compile(r"\$\{[^}]*\}")


def parse_override(line: str) -> Override:
    """Parse one override.

    Raises:
        HydraException: it is not a valid override.
    """
    parser = OverridesParser.create()
    try:
        return parser.parse_override(line)
    except HydraException:
        key, has_value, value = line.partition("=")
        text = _quote_words(value, should_quote=_holds_foreign_characters_only)
        if not has_value or text == value:
            raise
        with contextlib.suppress(HydraException):  # the error of the original line is clearer
            override = parser.parse_override(f"{key}={text}")
            override.input_line = line
            return override
        raise


def suggest_quoting(line: str) -> str | None:
    """Quote an override that `parse_override` refuses for a shell and Hydra; None where that is ambiguous."""
    key, has_value, value = line.partition("=")
    if not has_value or not _KEY.fullmatch(key):
        return None
    if not value.lstrip().startswith(("[", "{")):
        return quote_override(key, value)
    quoted = f"{key}={_quote_words(value, should_quote=lambda word: not _is_bare(word))}"
    try:
        OverridesParser.create().parse_override(quoted)
    except HydraException:
        return None
    return shlex.quote(quoted)


def quote_override(path: str, text: str) -> str:
    """Write an override that sets a field to this text, whatever it contains, as one shell word."""
    if _PLAIN_PATH.fullmatch(text):
        return f"{path}={text}"
    return shlex.quote(f"{path}={quote_text(text)}")


def quote_text(text: str) -> str:
    """Quote a text so that Hydra reads it, alone or in a list."""
    return QuotedString(text=text, quote=Quote.double).with_quotes()


def _quote_words(value: str, *, should_quote: Callable[[str], bool]) -> str:
    """Quote those bare words of a value (of its lists and mappings) that need it."""
    parts: list[str] = []
    open_brackets: list[str] = []
    position = 0
    while match := _TOKEN.match(value, position):
        found, position = match.group(), match.end()
        if match.lastgroup == "word":
            word = found.rstrip()
            parts.append((quote_text(_ESCAPED.sub(r"\1", word)) if should_quote(word) else word) + found[len(word) :])
            continue
        parts.append(found)
        if match.lastgroup != "mark":
            continue
        if found in "[{":
            open_brackets.append(found)
        elif found in "]}" and open_brackets:
            open_brackets.pop()
        if found in "{," and open_brackets[-1:] == ["{"] and (key := _MAPPING_KEY.match(value, position)):
            parts.append(key.group())
            position = key.end()
    return "".join([*parts, value[position:]])


def _is_bare(word: str) -> bool:
    return _BARE.issuperset(_INTERPOLATION.sub("", word))


def _holds_foreign_characters_only(word: str) -> bool:
    """Return whether the word is not bare only because of characters outside Hydra's grammar."""
    rest = set(_INTERPOLATION.sub("", _ESCAPED.sub("", word))) - _BARE
    return bool(rest) and not rest & _MEANINGFUL
