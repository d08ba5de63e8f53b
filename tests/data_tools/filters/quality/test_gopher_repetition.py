"""Repeated lines, paragraphs and n-grams are measured as plain counting measures them."""

import random
from collections import Counter

import numpy as np
import pytest

from data_tools.filters.quality.gopher import check_gopher_repetition
from tests.data_tools.step_results import find_reason

DIFFERENT = " ".join(f"word{number}" for number in range(300))
OPEN = {
    "max_duplicate_line_share": 1.0,
    "max_duplicate_line_character_share": 1.0,
    "max_duplicate_paragraph_share": 1.0,
    "max_duplicate_paragraph_character_share": 1.0,
    "max_top_ngram_shares": [9.0] * 3,
    "max_duplicate_ngram_shares": [1.0] * 6,
}


def test_different_words_pass():
    assert find_reason(check_gopher_repetition, DIFFERENT) is None


@pytest.mark.parametrize("text", ["", "one", "one two", "一"])
def test_short_texts_pass(text):
    assert find_reason(check_gopher_repetition, text) is None
    assert find_reason(check_gopher_repetition, text, characters_per_word=2) is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("ab\n" * 4 + DIFFERENT, "gopher_duplicate_lines"),
        (f"{DIFFERENT}\n" * 2 + "a\nb\nc\nd\ne", "gopher_duplicate_line_characters"),
        ("a\nb\n\n" * 4 + "\n".join(DIFFERENT.split()[:20]), "gopher_duplicate_paragraphs"),
        ("alpha beta " * 40 + DIFFERENT[:1000], "gopher_top_2_gram"),
        (f"{DIFFERENT[:180]} " * 3 + DIFFERENT[180:1000], "gopher_duplicate_5_gram"),
    ],
)
def test_rules(text, reason):
    assert find_reason(check_gopher_repetition, text) == reason


def reference_shares(units: list[str], size: int) -> tuple[float, float]:
    """Top and duplicate share by counting, one n-gram after the other."""
    grams = [tuple(units[i : i + size]) for i in range(len(units) - size + 1)]
    total = sum(map(len, units))
    counts = Counter(grams)
    most = max(counts.values(), default=0)
    top = max((len("".join(gram)) * most for gram, count in counts.items() if count == most), default=0)
    seen, covered = set(), np.zeros(len(units), bool)
    for place, gram in enumerate(grams):
        if gram in seen:
            covered[place : place + size] = True
        seen.add(gram)
    repeated = sum(len(unit) for unit, is_covered in zip(units, covered, strict=True) if is_covered)
    return (top / total if most > 1 else 0.0), repeated / total


@pytest.mark.parametrize("seed", range(12))
def test_ngrams_are_counted_exactly(seed):
    source = random.Random(seed)
    words = [f"{'x' * source.randint(0, 5)}{number}" for number in range(source.choice([3, 10, 40]))]
    units = [source.choice(words) for _ in range(source.choice([10, 60, 400]))]
    for place, size in enumerate(range(2, 11)):
        top, repeated = reference_shares(units, size)
        if size in (2, 3, 4):
            name, index, share, reason = "max_top_ngram_shares", place, top, f"gopher_top_{size}_gram"
        elif size >= 5:
            name, index, share, reason = (
                "max_duplicate_ngram_shares",
                place - 3,
                repeated,
                f"gopher_duplicate_{size}_gram",
            )
        for limit, expected in ((share + 1e-9, None), (share - 1e-9, reason if share else None)):
            limits = list(OPEN[name])
            limits[index] = max(limit, 0)
            assert find_reason(check_gopher_repetition, " ".join(units), **OPEN | {name: limits}) == expected


def test_scripts_without_spaces_count_characters():
    text = "".join(chr(0x4E00 + number) for number in range(300))
    assert find_reason(check_gopher_repetition, text, characters_per_word=2) is None
    spam = text + text[:80] * 2
    assert find_reason(check_gopher_repetition, spam, characters_per_word=2) == "gopher_duplicate_5_gram"
