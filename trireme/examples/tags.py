"""Encode words with a tag each: the tag is the label of the word's first token."""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace

from trireme.examples.document import EncodedDocument, ExampleRefusal, Truncation
from trireme.examples.frame import Frame
from trireme.tokenizer.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True)
class EncodedWords:
    """Hold a sentence's document, and the place of each word in it."""

    document: EncodedDocument
    first_tokens: tuple[int | None, ...]
    """Position of each word's first token; None for a word that was cut off, or that the tokenizer drops."""


class WordEncoder:
    """Encode sentences of words.

    The words are joined by spaces and encoded as one text, which the tokenizer sees as it sees any text.

    Args:
        tokenizer: of the model.
        seq_length: tokens that a document may have.
        truncation: whole words are cut off, from the right or the left.
    """

    def __init__(self, tokenizer: Tokenizer, *, seq_length: int, truncation: Truncation) -> None:
        self._tokenizer, self._truncation = tokenizer, truncation
        self._frame = Frame(tokenizer, num_texts=1)
        self._room = seq_length - self._frame.num_special

    def encode(self, words: Sequence[str], tags: Sequence[int]) -> EncodedDocument:
        """Encode a sentence with the numbers of its tags.

        Raises:
            ExampleRefusal: nothing to learn from is left, or it is too long where truncation is `drop`.
        """
        encoded = self.encode_words(words)
        for place, tag in zip(encoded.first_tokens, tags, strict=True):
            if place is not None:
                encoded.document.labels[place] = tag
        return encoded.document

    def encode_words(self, words: Sequence[str]) -> EncodedWords:
        """Encode a sentence without tags.

        Raises:
            ExampleRefusal: as `encode`.
        """
        ids, offsets = self._tokenizer.encode_with_offsets(" ".join(words))
        starts = _find_first_tokens(words, offsets)
        begin, end = 0, len(ids)
        if end > self._room:
            if self._truncation == "drop":
                raise ExampleRefusal("too_long", f"{end} tokens of text, a row has room for {self._room}")
            begin, end = self._choose_tokens([start for start in starts if start is not None], size=end)
        document, (shift,) = self._frame.assemble([ids[begin:end]])
        kept = tuple(None if s is None or not begin <= s < end else s - begin + shift for s in starts)
        if not any(place is not None for place in kept):
            raise ExampleRefusal("no_target" if ids else "empty_text")
        return EncodedWords(document=replace(document, is_truncated=end - begin < len(ids)), first_tokens=kept)

    def _choose_tokens(self, starts: list[int], *, size: int) -> tuple[int, int]:
        """Return the range of tokens that is kept: whole words."""
        borders = [*starts, size]
        if self._truncation == "right":
            return 0, borders[bisect_right(borders, self._room) - 1]
        place = bisect_left(borders, size - self._room)
        return borders[place], size


def _find_first_tokens(words: Sequence[str], offsets: Sequence[tuple[int, int]]) -> list[int | None]:
    """Return the first token of each word of a text in which they are joined by spaces.

    A token belongs to the word in which its last character is: its first may be the space before.
    """
    found: list[int | None] = []
    begin, token = 0, 0
    for word in words:
        end = begin + len(word)
        while token < len(offsets) and offsets[token][1] <= begin:
            token += 1
        is_inside = token < len(offsets) and offsets[token][0] < end
        found.append(token if is_inside else None)
        token += is_inside
        begin = end + 1
    return found
