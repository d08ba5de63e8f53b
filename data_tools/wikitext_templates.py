"""Write out the wiki templates that stand inside sentences; every other template is left out.

A template's definition is another page of the wiki, and usually a program. Those below stand for measures, dates,
numbers, quotations and words of other languages: without them, facts would be missing from sentences.
"""

from collections.abc import Callable
from dataclasses import dataclass

from data_tools.wikitext_numbers import (
    MONTHS,
    format_date,
    format_formula,
    format_fraction,
    format_measure,
    format_subscript,
    format_superscript,
    format_value,
    lower_digits,
)


@dataclass(frozen=True, slots=True)
class Arguments:
    """A template's arguments, without white space around them."""

    positional: list[str]
    named: dict[str, str]

    def get(self, place: int) -> str:
        """The argument at a place, from 1, in whichever way it was passed; empty if it was not."""
        if (named := self.named.get(str(place))) is not None:
            return named
        return self.positional[place - 1] if place <= len(self.positional) else ""


def _names(text: str) -> list[str]:
    return [name.replace("_", " ") for name in text.split()]


_FIRST_ARGUMENT = _names("""
    nowrap nobr nobreak no_wrap nobold noitalic small smaller big large larger huge sc smallcaps small_caps em strong
    italic bold i b u s code mono monospace tt kbd key keypress samp var mvar math bigmath abbr tooltip vanchor
    visible_anchor angbr angle_bracket quote cquote quotation blockquote bq poemquote poem_quote quote_text
    centered_pull_quote verse_translation center centre right ipa flag flagcountry flagu nts formatnum nombre unicode
    script hebrew rtl-lang linktext lien link-en link-ja not_a_typo proper_name aut char unichar underline strike
    overline railgauge track_gauge native_phrase allow_wrap marriage vr gr
""")
_SECOND_ARGUMENT = _names("""
    lang langue color colour font_color fontcolor resize font transl transliteration translit native_name
""")
_JOINED_ARGUMENTS = {"hlist": ", ", "flatlist": ", ", "unbulleted list": ", ", "ubl": ", ", "plainlist": "\n"}
_DATES = _names("""
    birth_date birth_date_and_age birth-date death_date death_date_and_age start_date end_date start_date_and_age
    film_date dts date_table_sorting bda dda dob
""")

_LITERALS = {
    "!": "|", "!!": "||", "!-": "|-", "(!": "{|", "!)": "|}", "end": "|}", "=": "=", "(": "{", ")": "}", "ndash": "–",
    "mdash": "—", "–": "–", "—": "—", "snd": " – ", "spnd": " – ", "spaced ndash": " – ", "spaced en dash": " – ",
    "spaced mdash": " — ", "mdashb": "—", "nbsp": " ", "space": " ", "spaces": " ", "thin space": " ", "'": "'",
    "'s": "'s", "-": "\n", "clear": "\n", "·": " · ", "•": " • ", "*": " • ", "dot": " · ",
    "bold dot": " · ", "sp": " ",
    "zwsp": "", "shy": "", "br": "\n", "break": "\n", "pi": "π", "times": "×", "x": "×", "euro": "€",
}  # fmt: skip

_AS_OF_LOWER = ("y", "yes", "1")


def _as_of(arguments: Arguments) -> str:
    year, month, day = arguments.get(1), arguments.get(2), arguments.get(3)
    if month.isdigit() and 1 <= int(month) <= 12:
        month = MONTHS[int(month) - 1]
    start = "as of" if arguments.named.get("lc", "").lower() in _AS_OF_LOWER else "As of"
    return arguments.named.get("alt") or " ".join(part for part in (start, day, month, year) if part)


def _nihongo(arguments: Arguments) -> str:
    words = [arguments.get(2), arguments.get(3)]
    inside = ", ".join(word for word in words if word)
    return f"{arguments.get(1)} ({inside})".strip() if inside else arguments.get(1)


def _chinese(arguments: Arguments) -> str:
    named = [arguments.named.get(name, "") for name in ("c", "s", "t", "p", "w", "j")]
    return ", ".join(dict.fromkeys(word for word in [*arguments.positional, *named] if word))


def _ship(prefix: str) -> Callable[[Arguments], str]:
    def write(arguments: Arguments) -> str:
        hull = arguments.get(2)
        has_hull = hull and arguments.get(3) not in ("2", "3", "6")
        return f"{prefix} {arguments.get(1)}" + (f" ({hull})" if has_hull else "")

    return write


def _plural(arguments: Arguments) -> str:
    return arguments.get(2) if arguments.get(1) == "1" else arguments.get(3) or arguments.get(2)


def _interlanguage_link(arguments: Arguments) -> str:
    return arguments.named.get("lt") or arguments.named.get("display") or arguments.get(1)


_EXPANSIONS: dict[str, Callable[[Arguments], str]] = {
    "as of": _as_of,
    "chem": lambda arguments: format_formula(arguments.positional),
    "chem2": lambda arguments: lower_digits(arguments.get(1)),
    "circa": lambda arguments: f"c. {'–'.join(part for part in arguments.positional[:2] if part)}",
    "convert": lambda arguments: format_measure(arguments.positional),
    "e": lambda arguments: f"×10{format_superscript(arguments.get(1))}",
    "10^": lambda arguments: f"10{format_superscript(arguments.get(1))}",
    "floruit": lambda arguments: f"fl. {'–'.join(part for part in arguments.positional[:2] if part)}",
    "frac": lambda arguments: format_fraction(arguments.positional),
    "lc": lambda arguments: arguments.get(1).lower(),
    "nihongo": _nihongo,
    "plural": _plural,
    "reign": lambda arguments: f"r. {'–'.join(part for part in arguments.positional[:2] if part)}",
    "sqrt": lambda arguments: f"√{arguments.get(1)}",
    "sub": lambda arguments: format_subscript(arguments.get(1)),
    "sup": lambda arguments: format_superscript(arguments.get(1)),
    "su": lambda arguments: (
        format_superscript(arguments.named.get("p", "")) + format_subscript(arguments.named.get("b", ""))
    ),
    "uc": lambda arguments: arguments.get(1).upper(),
    "unité": lambda arguments: " ".join(arguments.positional),
    "date": lambda arguments: " ".join(part for part in arguments.positional[:3] if part),
    "val": lambda arguments: format_value(arguments.positional, arguments.named),
    "zh": _chinese,
    **{name.lower(): _ship(name) for name in ("USS", "HMS", "HMAS", "HMCS", "RMS", "SS", "MS", "MV")},
    **{name: lambda arguments: arguments.get(1) for name in _FIRST_ARGUMENT},
    **{name: lambda arguments: arguments.get(2) for name in _SECOND_ARGUMENT},
    **{name: lambda arguments: format_date(arguments.positional, arguments.named) for name in _DATES},
    **dict.fromkeys(("ill", "interlanguage link", "illm"), _interlanguage_link),
}
_ALIASES = {
    "cvt": "convert", "c.": "circa", "fl.": "floruit", "r.": "reign", "sfrac": "frac", "fraction": "frac",
    "radic": "sqrt", "asof": "as of", "nihongo2": "nowrap", "unidad": "unité", "date-": "date",
    "lang-zh": "zh", "langx": "lang",
    "tlit": "transl", "ucfirst": "nowrap", "lcfirst": "nowrap", "exp": "sup", "indo": "sub", "unit": "unité",
}  # fmt: skip


def expand_template(name: str, arguments: Arguments, *, page_title: str = "") -> str:
    """The text that a template shows; empty if it is none of those that this file knows.

    Args:
        name: what stands before the first bar, such as "convert" or "formatnum:5".
    """
    key = " ".join(name.replace("_", " ").split()).casefold()
    if (literal := _LITERALS.get(key)) is not None:
        return literal
    if key in ("pagename", "fullpagename", "subpagename"):
        return page_title
    function, colon, value = name.partition(":")
    if colon:
        # Parser functions take their first argument behind a colon.
        function, value = function.strip().casefold(), value.strip()
        if function == "#if":
            return arguments.get(1) if value else arguments.get(2)
        key, arguments = function, Arguments([value, *arguments.positional], arguments.named)
    key = _ALIASES.get(key, key)
    if (separator := _JOINED_ARGUMENTS.get(key)) is not None:
        return separator.join(part for part in arguments.positional if part)
    if (expansion := _EXPANSIONS.get(key)) is not None:
        return expansion(arguments)
    if key.startswith("lang-") and not colon:
        return arguments.get(1)
    return ""
