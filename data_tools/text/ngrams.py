"""Represent texts as sets of hashed n-grams: of words, or of characters in scripts without spaces between words.

All computations are on whole arrays modulo 2^64. Python's own hash is not used: it differs between processes.
"""

import sys
import unicodedata
from functools import cache
from typing import NamedTuple

import numpy as np

OTHER, WORD, CHARACTER = 0, 1, 2
"""Kinds of code points: a separator, a part of a word, or a token of its own."""

UNSPACED = (
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x1000, 0x109F),  # Myanmar
    (0x1780, 0x17FF),  # Khmer
    (0x3005, 0x3007),
    (0x3040, 0x30FF),  # Hiragana, Katakana
    (0x31F0, 0x31FF),
    (0x3400, 0x9FFF),  # Han
    (0xAC00, 0xD7A3),  # Hangul: spaced, but its words carry their particles
    (0xF900, 0xFAFF),
    (0xFF66, 0xFF9F),
    (0x20000, 0x3FFFF),
)
_MARKED_PLANES = 0x20000
"""All combining marks, which are parts of words, are below; above are Han and marks for tags only."""
_TOKEN_BASE = np.uint64(0x9E3779B97F4A7C15)
_NGRAM_BASE = np.uint64(0xD6E8FEB86659FD93)


class Tokens(NamedTuple):
    """Hold the words and single characters of a text, in order."""

    hashes: np.ndarray
    """[n] uint64."""
    num_characters: int
    """Number of them that are single characters of scripts without spaces."""

    @property
    def is_unspaced(self) -> bool:
        """Return whether most of the text is in a script without spaces between words."""
        return 2 * self.num_characters > len(self.hashes)


def mix(values: np.ndarray) -> np.ndarray:
    """Spread uint64 values over all 64 bits (the finalizer of SplitMix64, a bijection)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def hash_tokens(text: str) -> Tokens:
    """Split a text into words, ignoring case and punctuation, and hash each."""
    codes = np.frombuffer(text.lower().encode("utf-32-le", "surrogatepass"), np.uint32)
    kinds = _code_point_kinds()[codes]
    is_start = kinds == CHARACTER
    num_characters = int(np.count_nonzero(is_start))
    is_word = kinds == WORD
    is_start[:1] |= is_word[:1]
    is_start[1:] |= is_word[1:] & ~is_word[:-1]
    used = np.flatnonzero(kinds)
    starts = np.flatnonzero(is_start[used])
    if not len(starts):
        return Tokens(np.empty(0, np.uint64), 0)
    lengths = np.diff(starts, append=len(used))
    places = np.arange(len(used)) - np.repeat(starts, lengths)
    values = mix(codes[used].astype(np.uint64)) * _powers(_TOKEN_BASE, int(lengths.max()))[places]
    return Tokens(mix(np.add.reduceat(values, starts) + lengths.astype(np.uint64)), num_characters)


def hash_ngrams(hashes: np.ndarray, *, n: int) -> np.ndarray:
    """Hash every run of n tokens; a shorter text is one run.

    Args:
        hashes: [num_tokens] uint64.
    Returns:
        [num_tokens - n + 1] uint64, in order, with repetitions.
    """
    n = min(n, len(hashes))
    if not n:
        return hashes
    count = len(hashes) - n + 1
    total = np.zeros(count, np.uint64)
    for place, power in enumerate(_powers(_NGRAM_BASE, n)):
        total += hashes[place : place + count] * power
    return mix(total)


def _powers(base: np.uint64, count: int) -> np.ndarray:
    return np.cumprod(np.full(count, base, np.uint64), dtype=np.uint64)


@cache
def _code_point_kinds() -> np.ndarray:
    """Return OTHER, WORD or CHARACTER for every code point: [0x110000] uint8."""
    kinds = np.zeros(sys.maxunicode + 1, np.uint8)
    for code in range(_MARKED_PLANES):
        if unicodedata.category(chr(code))[0] in "LNM":
            kinds[code] = WORD
    for first, last in UNSPACED:
        block = kinds[first : last + 1]
        block[(block == WORD) | (first >= _MARKED_PLANES)] = CHARACTER
    return kinds
