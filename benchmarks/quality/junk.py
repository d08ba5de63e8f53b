"""Made junk of the kinds that fill web pages, from the words of given prose, so that it is of the prose's language."""

import base64
import random
from collections.abc import Callable, Sequence

from data_tools.text.words import split_units

JunkMaker = Callable[[random.Random, Sequence[str], int], str]
"""Source of chance, units of prose in their order, how many of them make a word of a script without spaces (0: spaces
stand between them) -> a document."""

_LOREM = """\
dolor sit amet consectetur adipiscing elit sed do eiusmod tempor incididunt ut labore et dolore magna aliqua enim ad
minim veniam quis nostrud exercitation ullamco laboris nisi aliquip ex ea commodo consequat duis aute irure in
reprehenderit voluptate velit esse cillum eu fugiat nulla pariatur excepteur sint occaecat cupidatat non proident sunt
culpa qui officia deserunt mollit anim id est laborum"""


def make_junk(text: str, *, kind: str, seed: int, characters_per_word: int) -> str:
    """Make a document of one kind of `JUNK_KINDS` out of the words of a text."""
    units = [unit for unit in split_units(text, characters_per_word) if unit[0].isalpha()]
    return JUNK_KINDS[kind](random.Random(f"{kind} {seed}"), units, characters_per_word)


def _phrase(chance: random.Random, units: Sequence[str], word_units: int, *, shortest: int, longest: int) -> str:
    """Return a few words that follow each other in the prose."""
    length = chance.randint(shortest, longest) * max(1, word_units)
    start = chance.randrange(max(1, len(units) - length))
    return ("" if word_units else " ").join(units[start : start + length]).strip(".,;:!?")


def _make_menu(chance: random.Random, units: Sequence[str], word_units: int) -> str:
    entries = [_phrase(chance, units, word_units, shortest=1, longest=3) for _ in range(chance.randint(60, 150))]
    if chance.random() < 0.5:
        return "\n".join(entries)
    rows = [entries[start : start + 8] for start in range(0, len(entries), 8)]
    return "\n".join(chance.choice([" | ", " > ", " · "]).join(row) for row in rows)


def _make_keyword_spam(chance: random.Random, units: Sequence[str], word_units: int) -> str:
    words = [_phrase(chance, units, word_units, shortest=1, longest=1) for _ in range(chance.randint(6, 20))]
    between = "" if word_units else " "
    after = chance.choice(["，", "。", "\n"] if word_units else [", ", ". ", "\n"])
    phrases = [between.join(chance.choices(words, k=chance.randint(2, 4))) for _ in range(chance.randint(100, 250))]
    return after.join(phrases)


def _make_repeated_lines(chance: random.Random, units: Sequence[str], word_units: int) -> str:
    lines = [_phrase(chance, units, word_units, shortest=10, longest=20) + "." for _ in range(chance.randint(4, 8))]
    return "\n".join(chance.choices(lines, k=chance.randint(20, 60)))


def _make_lorem_ipsum(chance: random.Random, units: Sequence[str], word_units: int) -> str:
    words = _LOREM.split()
    paragraphs = []
    for _ in range(chance.randint(3, 6)):
        sentences = [" ".join(chance.choices(words, k=chance.randint(6, 15))) for _ in range(chance.randint(3, 6))]
        paragraphs.append(" ".join(f"{sentence.capitalize()}." for sentence in sentences))
    return "Lorem ipsum " + "\n\n".join(paragraphs)


def _make_base64(chance: random.Random, units: Sequence[str], word_units: int) -> str:
    return base64.encodebytes(chance.randbytes(chance.randint(1000, 8000))).decode()


JUNK_KINDS: dict[str, JunkMaker] = {
    "menu": _make_menu,
    "keyword_spam": _make_keyword_spam,
    "repeated_lines": _make_repeated_lines,
    "lorem_ipsum": _make_lorem_ipsum,
    "base64": _make_base64,
}
"""Lists of links; the same few words over and over; the same few lines; filler text; encoded bytes."""
