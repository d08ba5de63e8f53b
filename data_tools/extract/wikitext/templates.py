"""Expand the wiki templates inside sentences.

A template is defined on another page of the wiki, usually by a program. Those supported here write measures, dates,
numbers, quotations and words of other languages: without them, facts would be missing from sentences. The caller
decides what to do with others.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from data_tools.extract.superscripts import format_subscript, format_superscript
from data_tools.extract.wikitext.currencies import format_money
from data_tools.extract.wikitext.dates import format_date, month_name
from data_tools.extract.wikitext.number_format import format_number, parse_number
from data_tools.extract.wikitext.numbers import (
    evaluate,
    format_duration,
    format_formula,
    format_fraction,
    format_height,
    format_measure,
    format_ordinal,
    format_percentage,
    format_unit_value,
    format_value,
    lower_digits,
)
from data_tools.extract.wikitext.template_names import (
    COMPUTED,
    CONVERSIONS,
    COUNTED_NAME,
    DATES,
    FIRST_ARGUMENT,
    FOREIGN_FIRST,
    FRACTIONS,
    FUNCTIONS_WITHOUT_TEXT,
    HIDDEN,
    HIDDEN_PATTERN,
    JOINED_ARGUMENTS,
    LINK_LABELS,
    LINKS,
    LINKS_WITH_LABEL,
    LITERALS,
    MEASURES,
    PREFIXES,
    SECOND_ARGUMENT,
    SIGNS,
    SUFFIXES,
    TEMPLATE_NAMESPACES,
    TEXT_ARGUMENTS,
)


@dataclass(frozen=True, slots=True)
class Arguments:
    """Hold the arguments of a template, without surrounding white space."""

    positional: list[str]
    named: dict[str, str]

    def get(self, place: int) -> str:
        """Return the argument at a position, from 1, passed by position or number; an empty text if it is missing."""
        if (named := self.named.get(str(place))) is not None:
            return named
        return self.positional[place - 1] if place <= len(self.positional) else ""

    @property
    def all(self) -> list[str]:
        """Return the positional arguments; numbered ones up to the first gap."""
        if self.positional or "1" not in self.named:
            return self.positional
        count = next(place for place in range(1, len(self.named) + 2) if str(place) not in self.named)
        return [self.named[str(place)] for place in range(1, count)]

    @property
    def text(self) -> str:
        """Return the argument that holds the text: the first one, or one with a name in `TEXT_ARGUMENTS`."""
        if self.positional and self.positional[0]:
            return self.positional[0]
        folded = {name.casefold(): value for name, value in self.named.items()}
        return next((folded[name] for name in TEXT_ARGUMENTS if folded.get(name)), "")


class Wiki(NamedTuple):
    """Identify the wiki of a template."""

    page_title: str = ""
    language: str = ""
    """Language of the wiki, by MediaWiki's code; may be empty."""


_LANGUAGE_CODE = re.compile(r"[a-z]{2,3}(?:-[A-Za-z]{2,8})*")
_ARGUMENT_WITHOUT_TEXT = re.compile(
    r"https?://\S*|[^\s]+\.(?:jpe?g|png|svg|gif|og[gav]|webm|pdf)|[#{|].*|[\W_]*", re.IGNORECASE | re.DOTALL
)
_ROMAN = re.compile(r"[IVXLCDMivxlcdm]+")
_IPAC_OPTIONS = ("lang", "local", "icon", "pron", "pronunciation", "us", "uk", "US", "UK", "also", "AmE", "BrE")
_AS_OF_LOWER = ("y", "yes", "1")

Expansion = Callable[[Arguments, Wiki], str]


def _as_of(arguments: Arguments, wiki: Wiki) -> str:
    year, month, day = arguments.get(1), arguments.get(2), arguments.get(3)
    if month.isdigit() and 1 <= int(month) <= 12:
        month = month_name(int(month), "en")
    start = "since" if arguments.named.get("since", "").lower() in _AS_OF_LOWER else "as of"
    if arguments.named.get("lc", "").lower() not in _AS_OF_LOWER:
        start = start[0].upper() + start[1:]
    return arguments.named.get("alt") or " ".join(part for part in (start, day, month, year) if part)


def _nihongo(arguments: Arguments, wiki: Wiki) -> str:
    words = [arguments.get(2), arguments.get(3)]
    inside = ", ".join(word for word in words if word)
    return f"{arguments.get(1)} ({inside})".strip() if inside else arguments.get(1)


def _with_reading(arguments: Arguments, wiki: Wiki) -> str:
    word, reading = arguments.get(1), arguments.get(2)
    return f"{word}（{reading}）" if reading else word


def _scripts(arguments: Arguments, wiki: Wiki) -> str:
    """Return words of Chinese or Korean, each in several scripts."""
    keys = ("c", "s", "t", "hangul", "hanja", "p", "w", "j", "rr", "mr", "한글", "한자")
    named = [arguments.named.get(name, "") for name in keys]
    return ", ".join(dict.fromkeys(word for word in [*arguments.positional, *named] if word))


def _ship(prefix: str) -> Expansion:
    def write(arguments: Arguments, wiki: Wiki) -> str:
        hull = arguments.get(2)
        has_hull = hull and arguments.get(3) not in ("2", "3", "6")
        return f"{prefix} {arguments.get(1)}" + (f" ({hull})" if has_hull else "")

    return write


def _any_ship(arguments: Arguments, wiki: Wiki) -> str:
    if len(arguments.all) < 2:
        return arguments.text
    return _ship(arguments.get(1))(Arguments(arguments.all[1:], {}), wiki).strip()


def _ship_class(arguments: Arguments, wiki: Wiki) -> str:
    return f"{arguments.get(1)}-class {arguments.get(2)}".strip()


def _plural(arguments: Arguments, wiki: Wiki) -> str:
    return arguments.get(2) if arguments.get(1) == "1" else arguments.get(3) or arguments.get(2)


def _nuclide(arguments: Arguments, wiki: Wiki) -> str:
    return "-".join(part for part in arguments.all[:2] if part)


def _link(arguments: Arguments, wiki: Wiki) -> str:
    return next((arguments.named[name] for name in LINK_LABELS if arguments.named.get(name)), "") or arguments.text


def _link_with_label(arguments: Arguments, wiki: Wiki) -> str:
    return arguments.get(2) or arguments.get(1)


def _foreign_first(arguments: Arguments, wiki: Wiki) -> str:
    return arguments.get(4) or arguments.get(3) or arguments.get(2) or arguments.get(1)


def _second(arguments: Arguments, wiki: Wiki) -> str:
    return arguments.get(2) or arguments.named.get("text", "") or arguments.text


def _centuries(before: str, after: str) -> Expansion:
    """Return the French ones: {{s|XIX|e}}, {{sp|XIX|e|au|XX|e}}; other arguments are a small text, as elsewhere."""

    def write(arguments: Arguments, wiki: Wiki) -> str:
        if not _ROMAN.fullmatch(arguments.get(1)):
            return arguments.text
        parts = list(arguments.all)
        if len(parts) == 1 and after:
            parts.append("er" if parts[0] == "I" else "e")
        written = before
        for place, part in enumerate(part for part in parts if part):
            is_ending = part in ("e", "er", "re", "ème")
            written += part if is_ending or not place else f" {part}"
        return written + after

    return write


def _two_centuries(arguments: Arguments, wiki: Wiki) -> str:
    numbers = [part for part in arguments.all if _ROMAN.fullmatch(part)]
    return " et ".join(f"{number}{'er' if number == 'I' else 'e'}" for number in numbers) + " siècles"


def _century(arguments: Arguments, wiki: Wiki) -> str:
    return f"{format_ordinal(arguments.get(1))} century"


def _ipac(arguments: Arguments, wiki: Wiki) -> str:
    sounds = "".join(
        part
        for part in arguments.positional
        if part not in _IPAC_OPTIONS and not _ARGUMENT_WITHOUT_TEXT.fullmatch(part)
    ).replace("_", " ")
    return f"/{sounds}/" if sounds else ""


def _character(arguments: Arguments, wiki: Wiki) -> str:
    code = arguments.get(1).upper().removeprefix("U+")
    try:
        shown = chr(int(code, 16))
    except (ValueError, OverflowError):
        return arguments.get(1)
    # No control character, no half of a surrogate pair.
    return " ".join(part for part in (f"U+{code}", shown if shown.isprintable() else "", arguments.get(2)) if part)


def _old_style(arguments: Arguments, wiki: Wiki) -> str:
    old = arguments.get(3)
    return f"{arguments.get(1)} [O.S. {old}] {arguments.get(2)}" if old else " ".join(arguments.all)


def _life(arguments: Arguments, wiki: Wiki) -> str:
    """Return the Chinese one: {{bd|1900年|1月1日|1980年|2月2日}}."""
    places = (arguments.get(place) for place in range(1, 5))
    birth_year, birth, death_year, death = (place for place in places)
    return f"（{birth_year}{birth}－{death_year}{death}）"


def _spans(prefix: str) -> Expansion:
    def write(arguments: Arguments, wiki: Wiki) -> str:
        shown = "–".join(part for part in arguments.all[:2] if part) or arguments.text
        return f"{prefix}{shown}" if shown else ""

    return write


def _date(arguments: Arguments, wiki: Wiki) -> str:
    return format_date(arguments.all, arguments.named, language=wiki.language.partition("-")[0])


def _two_dates(arguments: Arguments, wiki: Wiki) -> str:
    parts = arguments.all
    dates = [format_date(each, arguments.named, language=wiki.language) for each in (parts[:3], parts[3:6]) if each]
    return " – ".join(dates)


def _measure(arguments: Arguments, wiki: Wiki) -> str:
    unit = arguments.named.get("ul") or arguments.named.get("u") or ""
    return " ".join(part for part in (format_unit_value(arguments.all), unit) if part)


_SIECLE = " siècle"
_EXPANSIONS: dict[str, Expansion] = {
    **{name: lambda arguments, wiki: arguments.text for name in FIRST_ARGUMENT},
    **dict.fromkeys(SECOND_ARGUMENT, _second),
    **dict.fromkeys(LINKS, _link),
    **dict.fromkeys(LINKS_WITH_LABEL, _link_with_label),
    **dict.fromkeys(FOREIGN_FIRST, _foreign_first),
    **dict.fromkeys(DATES, _date),
    **{name: lambda arguments, wiki: format_measure(arguments.all) for name in CONVERSIONS},
    **dict.fromkeys(MEASURES, _measure),
    **{name: lambda arguments, wiki: format_fraction(arguments.all) for name in FRACTIONS},
    **{name: _spans(prefix) for name, prefix in PREFIXES.items()},
    **{name.lower(): _ship(name) for name in (
        "USS", "HMS", "HMAS", "HMCS", "HMNZS", "HNLMS", "HMT", "RMS", "SS", "MS", "MV", "SMS", "INS", "USAT", "USNS",
        "USCGC", "ORP", "ARA", "JDS", "ROKS", "HDMS", "HSwMS", "PS", "GTS", "RV",
    )},
    "as of": _as_of,
    "asof": _as_of,
    "chem": lambda arguments, wiki: format_formula(arguments.positional),
    "chem2": lambda arguments, wiki: lower_digits(arguments.get(1)),
    "e": lambda arguments, wiki: f"×10{format_superscript(arguments.get(1))}" if arguments.all else "",
    "10^": lambda arguments, wiki: f"10{format_superscript(arguments.get(1))}",
    "lc": lambda arguments, wiki: arguments.get(1).lower(),
    "uc": lambda arguments, wiki: arguments.get(1).upper(),
    **dict.fromkeys(("nihongo", "일본어", "nihongo2", "nihongo3", "일본어 표기"), _nihongo),
    **dict.fromkeys(("読み仮名", "読み仮名 ruby不使用", "ruby", "読み", "furigana", "注音", "ruby2"), _with_reading),
    **dict.fromkeys(("zh", "lang-zh", "korean", "ko-hhrm", "lang-ko", "chinese", "zh-tsp", "한국어"), _scripts),
    "plural": _plural,
    "sub": lambda arguments, wiki: format_subscript(arguments.get(1)),
    "ind": lambda arguments, wiki: format_subscript(arguments.get(1)),
    "indo": lambda arguments, wiki: format_subscript(arguments.get(1)),
    "sup": lambda arguments, wiki: format_superscript(arguments.get(1)),
    "exp": lambda arguments, wiki: format_superscript(arguments.get(1)),
    "su": lambda arguments, wiki: (
        format_superscript(arguments.named.get("p", "")) + format_subscript(arguments.named.get("b", ""))
    ),
    "val": lambda arguments, wiki: format_value(arguments.positional, arguments.named),
    **dict.fromkeys(("ship", "schiff", "bateau", "buque", "nave"), _any_ship),
    **dict.fromkeys(("sclass", "sclass2", "sclass-", "ship class"), _ship_class),
    **dict.fromkeys(("s", "s-", "siècle"), _centuries("", _SIECLE)),
    **dict.fromkeys(("-s", "-s-"), _centuries("", f"{_SIECLE} av. J.-C.")),
    **dict.fromkeys(("sp", "sp-"), _centuries("", _SIECLE)),
    **dict.fromkeys(("s2", "s2-"), _two_centuries),
    "century": _century,
    "ordinal": lambda arguments, wiki: format_ordinal(arguments.get(1)),
    "höhe": lambda arguments, wiki: f"{arguments.get(1)} m" if arguments.get(1) else "",
    "height": lambda arguments, wiki: format_height(arguments.named),
    **dict.fromkeys(
        ("percentage", "percent and number", "pct"), lambda arguments, wiki: format_percentage(arguments.all)
    ),
    **dict.fromkeys(
        ("duration", "durée", "durata", "duración"),
        lambda arguments, wiki: format_duration(arguments.positional, arguments.named),
    ),
    "heure": lambda arguments, wiki: " h ".join(part for part in arguments.all[:2] if part),
    "ipac-en": _ipac,
    "unichar": _character,
    **dict.fromkeys(("oldstyledate", "old style date", "oldstyledatedy", "oldstyledateny"), _old_style),
    "bd": _life,
    **dict.fromkeys(("start and end dates", "start and end date"), _two_dates),
    **dict.fromkeys(("nuclide", "nuclide2", "simplenuclide", "simplenuclide2"), _nuclide),
    "music": lambda arguments, wiki: SIGNS.get(arguments.get(1).lower(), arguments.get(1)),
    **dict.fromkeys(("harvtxt", "harvard citation text", "sfntxt"), lambda arguments, wiki: (
        f"{arguments.get(1)} ({arguments.get(2)})" if arguments.get(2) else arguments.get(1)
    )),
    "sfrac": lambda arguments, wiki: format_fraction(arguments.all),
    "incise": lambda arguments, wiki: f"– {arguments.text} –",
    "guillemets": lambda arguments, wiki: f"« {arguments.text} »",
    "guil": lambda arguments, wiki: f"« {arguments.text} »",
    '"': lambda arguments, wiki: f"„{arguments.text}“" if wiki.language == "de" else f"“{arguments.text}”",
}  # fmt: skip


def expand_template(name: str, arguments: Arguments, *, wiki: Wiki) -> str | None:
    """Return the text of a template, empty if it has none; None for an unknown template.

    Args:
        name: the part before the first bar, such as "convert" or "formatnum:5".
    """
    key = _normalize(name)
    if not key:
        return ""
    if (literal := LITERALS.get(key)) is not None and not (arguments.all and key in _EXPANSIONS):
        return literal
    if key in ("pagename", "fullpagename", "subpagename", "basepagename"):
        return wiki.page_title
    function, colon, value = name.partition(":")
    if colon and (shown := _call_function(_normalize(function), value.strip(), arguments, wiki)) is not None:
        return shown
    if key == "citation":
        # In French a quotation, if it has a text; elsewhere a reference, whose arguments are all named.
        return f"« {arguments.positional[0]} »" if arguments.positional and arguments.positional[0] else ""
    if (shown := format_money(key, arguments.text, language=wiki.language)) is not None:
        return shown
    if (separator := JOINED_ARGUMENTS.get(key)) is not None:
        return separator.join(part for part in arguments.all if part)
    if (suffix := SUFFIXES.get(key)) is not None:
        return f"{arguments.get(1)}{suffix}" if arguments.get(1) else ""
    if key in HIDDEN and not (key in _EXPANSIONS and arguments.text):
        return ""
    if (expansion := _EXPANSIONS.get(key)) is not None:
        return expansion(arguments, wiki)
    if HIDDEN_PATTERN.match(key):
        return ""
    return _expand_family(name.strip(), key, arguments)


def guess_text(name: str, arguments: Arguments) -> str:
    """Guess the text of an unknown template inside a sentence: its first argument that is a text."""
    if _normalize(name) in COMPUTED:
        return ""
    first = arguments.text
    if _LANGUAGE_CODE.fullmatch(first) and arguments.get(2):
        first = arguments.get(2)
    return "" if _ARGUMENT_WITHOUT_TEXT.fullmatch(first) else first


def _normalize(name: str) -> str:
    key = " ".join(name.replace("_", " ").split()).casefold()
    namespace, colon, rest = key.partition(":")
    return rest.strip() if colon and namespace.strip() in TEMPLATE_NAMESPACES else key


def _call_function(function: str, value: str, arguments: Arguments, wiki: Wiki) -> str | None:
    """Return the text of a parser function, whose first argument follows a colon."""
    if function == "#if":
        return arguments.get(1) if value else arguments.get(2)
    if function == "#ifeq":
        return arguments.get(2) if value == arguments.get(1) else arguments.get(3)
    if function == "#switch":
        return arguments.named.get(value) or arguments.named.get("#default", "")
    if function == "#expr":
        return evaluate(value)
    if function in FUNCTIONS_WITHOUT_TEXT or (function.startswith("#tag") and value.lower() == "ref"):
        return ""
    if function == "formatnum":
        return _format_number(value, arguments, wiki)
    if function in ("lcfirst", "ucfirst", "padleft", "padright", "urlencode", "anchorencode", "#tag"):
        return value if function != "#tag" else arguments.text
    if function in ("grammar", "gender"):
        return arguments.get(1)
    if function in ("lc", "uc", "plural"):
        return _EXPANSIONS[function](Arguments([value, *arguments.positional], arguments.named), wiki)
    return None


def _format_number(number: str, arguments: Arguments, wiki: Wiki) -> str:
    if "R" in arguments.all:
        return parse_number(number, language=wiki.language)
    return number if "NOSEP" in arguments.all else format_number(number, language=wiki.language)


def _expand_family(name: str, key: str, arguments: Arguments) -> str | None:
    """Return the text of a template whose name is composed of a word and a language or a number."""
    if key.startswith(("lang-", "ipa-", "zitat-", "link-", "lien-", "langue-", "lang ", "script/")):
        return arguments.text
    if key.startswith("ipac-"):
        return _ipac(arguments, Wiki())
    if re.fullmatch(r"[a-z]{2,4}s", key) and name.endswith("S"):
        # German: {{enS|house}}.
        return arguments.text
    if key.startswith("internal link helper"):
        return arguments.get(1)
    if COUNTED_NAME.fullmatch(name):
        return name
    return None
