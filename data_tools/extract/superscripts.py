"""Superscripts and subscripts as Unicode characters, or with ^ and _."""

import re

_SUPERSCRIPTS = str.maketrans("0123456789+-−=()ni", "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁻⁼⁽⁾ⁿⁱ")
_SUBSCRIPTS = str.maketrans("0123456789+-−=()", "₀₁₂₃₄₅₆₇₈₉₊₋₋₌₍₎")
_RAISABLE = re.compile(r"[0-9+\-−=()ni]+")
LOWERABLE = re.compile(r"[0-9+\-−=()]+")
_ORDINAL_LETTERS = frozenset("eoadr")
"""French, Spanish and Portuguese raise them: XIXe siècle."""


def format_superscript(text: str) -> str:
    """Raise what is no footnote and no ordinal: 10⁶ and not 106, but 1st."""
    text = text.strip()
    if _RAISABLE.fullmatch(text):
        return text.translate(_SUPERSCRIPTS)
    if len(text) == 1 and text.isalpha():
        return text if text in _ORDINAL_LETTERS else f"^{text}"
    if not any(character.isdigit() for character in text) or text.startswith("["):
        return text
    return f"^{text}" if text.isalnum() else f"^({text})"


def format_subscript(text: str) -> str:
    """Lower digits: H₂O and not H2O."""
    text = text.strip()
    if not text:
        return ""
    return text.translate(_SUBSCRIPTS) if LOWERABLE.fullmatch(text) else f"_{text}"
