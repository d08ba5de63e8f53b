"""Count words, lines and paragraphs of a text once for all quality filters.

Words are separated by spaces, or by the marks that Tibetan and Ethiopic use. In scripts without spaces each character
is a unit; the thresholds of the language define how many of them count as a word. A run of Latin letters or digits
among them is one word.
"""

import re
import unicodedata
from functools import cached_property

import numpy as np

_UNIT = re.compile(r"[0-9A-Za-z\u00c0-\u024f\u0370-\u052f]+|\S")
_PARAGRAPH_END = re.compile(r"\n{2,}")
_LETTER = re.compile(r"[^\W\d_]")
_WORD_MARKS = ("\u0f0b", "\u0f0c", "\u1361")
"""The tsheg, which ends each syllable of Tibetan and Dzongkha, in both of its forms; Ethiopic's wordspace."""


def split_units(text: str, characters_per_word: int) -> list[str]:
    """Split a text into words or, in scripts without spaces, into characters and runs of Latin letters."""
    if characters_per_word:
        return _UNIT.findall(text)
    for mark in _WORD_MARKS:
        if mark in text:
            text = text.replace(mark, " ")
    return text.split()


def count_words(text: str, characters_per_word: int) -> int:
    """Return the number of words of a text."""
    return _count(split_units(text, characters_per_word), characters_per_word)


def _count(units: list[str], characters_per_word: int) -> int:
    if not characters_per_word:
        return len(units)
    num_single = sum(len(unit) == 1 for unit in units)
    return len(units) - num_single + num_single // characters_per_word


class TextMeasure:
    """Hold a text with the counts that filters need; each is computed when it is first used."""

    def __init__(self, text: str, *, characters_per_word: int = 0) -> None:
        self.text = text
        self.characters_per_word = characters_per_word

    @cached_property
    def units(self) -> list[str]:
        """Return words or characters, see `split_units`."""
        return split_units(self.text, self.characters_per_word)

    @cached_property
    def distinct_units(self) -> list[str]:
        """Return each unit once, in the order of first occurrence; per-unit checks run on these only."""
        return list(dict.fromkeys(self.units))

    @cached_property
    def unit_numbers(self) -> np.ndarray:
        """Return the index of each unit among the distinct ones: [u] int64."""
        number_of = {unit: number for number, unit in enumerate(self.distinct_units)}
        return np.fromiter(map(number_of.__getitem__, self.units), np.int64, len(self.units))

    @cached_property
    def unit_lengths(self) -> np.ndarray:
        """Return the number of characters of each unit: [u] int64."""
        lengths = np.fromiter(map(len, self.distinct_units), np.int64, len(self.distinct_units))
        return lengths[self.unit_numbers]

    @cached_property
    def num_characters(self) -> int:
        """Return the number of characters in units, which excludes spaces."""
        return int(self.unit_lengths.sum())

    @cached_property
    def num_words(self) -> int:
        """Return the number of words of the text."""
        return _count(self.units, self.characters_per_word)

    @cached_property
    def alphabetic_share(self) -> float:
        """Return the share of units that contain a letter or a vowel sign."""
        is_alphabetic = np.fromiter(map(_is_alphabetic, self.distinct_units), np.bool_, len(self.distinct_units))
        return int(np.count_nonzero(is_alphabetic[self.unit_numbers])) / max(1, len(self.units))

    @cached_property
    def alphabetic_run_share(self) -> float:
        """Return the share of space-separated words that contain a letter."""
        runs = self.text.split()
        return sum(_LETTER.search(run) is not None for run in runs) / max(1, len(runs))

    @cached_property
    def lines(self) -> list[str]:
        """Return the lines that are not blank, without surrounding spaces."""
        return [line for line in map(str.strip, self.text.split("\n")) if line]

    @cached_property
    def paragraphs(self) -> list[str]:
        """Return the paragraphs, which blank lines separate."""
        return [part for part in map(str.strip, _PARAGRAPH_END.split(self.text)) if part]

    @cached_property
    def lowered(self) -> str:
        """Return the text in lower case."""
        return self.text.lower()


def _is_alphabetic(unit: str) -> bool:
    # Vowel signs and tone marks are of category M, which isalpha and \w do not treat as letters.
    return unit.isalpha() or _LETTER.search(unit) is not None or unicodedata.category(unit[0])[0] == "M"


def measure_repeated(parts: list[str]) -> tuple[int, int]:
    """Return the number of parts that repeat an earlier one, and the number of their characters."""
    seen: set[str] = set()
    num_repeated = num_characters = 0
    for part in parts:
        if part in seen:
            num_repeated += 1
            num_characters += len(part)
        else:
            seen.add(part)
    return num_repeated, num_characters
