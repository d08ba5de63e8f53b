"""Format numbers with the digits and separators of a wiki's language, as {{formatnum}} does."""

import re

from data_tools.extract.wikitext.template_names import read_names

_PLAIN_NUMBER = re.compile(r"(?<![0-9.,])([0-9]+)(?:\.([0-9]+))?(?![0-9.])")
_SEPARATORS = {
    language: (group, decimal)
    for group, decimal, languages in (
        (
            ".",
            ",",
            "az bar bs ca da de el eu fo fy gl hr id is jv ku lb mk nds nl pt-br ro sh sl sr su tr vi",
        ),
        (
            "\u00a0",
            ",",
            "an ast ba be be-tarask be-x-old bg br cs cv eo es et fi hu hy it ka kk ky lt lv nb nn no oc pl pt ru se sk"
            " sv tt uk uz",
        ),
        ("\u202f", ",", "fr"),
        ("٬", "٫", "ar arz ckb fa ps"),
    )
    for language in languages.split()
}
"""Group and decimal separator of MediaWiki's languages; others use those of English, 12,345.6."""
_MIN_FIVE_DIGITS = read_names("be be-tarask be-x-old bg es et hy it ka kk ku lv pl pt ru uk")
"""Languages that write numbers of four digits without a separator."""
_INDIAN_GROUPS = read_names("as bn gu hi kn ml mr ne or pa sa ta te")
"""Languages that group 12,34,567."""
_NO_GROUPS = frozenset(("my",))
_DIGITS = {
    language: str.maketrans("0123456789", digits)
    for languages, digits in (
        ("fa ps", "۰۱۲۳۴۵۶۷۸۹"),
        ("ckb", "٠١٢٣٤٥٦٧٨٩"),
        ("mr ne sa", "०१२३४५६७८९"),
        ("bn as", "০১২৩৪৫৬৭৮৯"),
        ("my", "၀၁၂၃၄၅၆၇၈၉"),
    )
    for language in languages.split()
}
"""Digits of the languages whose Wikipedias use their own; those of Arabic and Hindi do not."""


def format_number(text: str, *, language: str) -> str:
    """Format the numbers of {{formatnum:text}} with the digits and separators of a language, as MediaWiki does.

    Args:
        text: any text with numbers in the form 12345.6.
        language: of the wiki, by MediaWiki's code; English for an empty or unsupported one.
    Source: https://www.mediawiki.org/wiki/Help:Magic_words#formatnum and the languages/messages files of MediaWiki.
    """
    group, decimal = _SEPARATORS.get(language, (",", "."))
    digits = _DIGITS.get(language, {})

    def write(number: re.Match[str]) -> str:
        whole, fraction = number[1], number[2]
        if language not in _NO_GROUPS and len(whole) >= (5 if language in _MIN_FIVE_DIGITS else 4):
            whole = group.join(_split_thousands(whole, size=2 if language in _INDIAN_GROUPS else 3))
        return (whole if fraction is None else f"{whole}{decimal}{fraction}").translate(digits)

    return _PLAIN_NUMBER.sub(write, text)


def parse_number(text: str, *, language: str) -> str:
    """Return {{formatnum:text|R}}: a number with the separators of a language in the form 12345.6."""
    group, decimal = _SEPARATORS.get(language, (",", "."))
    for own, digit in ((chr(own), chr(digit)) for digit, own in _DIGITS.get(language, {}).items()):
        text = text.replace(own, digit)
    return text.replace(group, "").replace(decimal, ".")


def _split_thousands(digits: str, *, size: int) -> list[str]:
    """Split digits into groups of a size, the last one of three; the first has the remaining digits."""
    rest = len(digits) - 3
    first = rest % size
    groups = [digits[:first]] if first else []
    return [*groups, *(digits[start : start + size] for start in range(first, rest, size)), digits[-3:]]
