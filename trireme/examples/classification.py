"""Encode texts with a class, several classes or a number: the label is at the document's first token."""

from dataclasses import replace

from trireme.examples.document import EncodedDocument, ExampleRefusal, Truncation
from trireme.examples.frame import Frame, cut
from trireme.tokenizer.tokenizer import Tokenizer


class TextEncoder:
    """Encode single texts and pairs of texts for a classifier.

    Args:
        tokenizer: of the model.
        seq_length: tokens that a document may have.
        truncation: of two texts the longer one is cut first, as transformers' `longest_first` does.
    """

    def __init__(self, tokenizer: Tokenizer, *, seq_length: int, truncation: Truncation) -> None:
        self._tokenizer, self._seq_length, self._truncation = tokenizer, seq_length, truncation
        self._frames = {number: Frame(tokenizer, num_texts=number) for number in (1, 2)}

    def encode(self, text: str, second: str | None = None, *, label: int | None = None) -> EncodedDocument:
        """Encode a text, or two.

        Args:
            label: as ExamplesRecord describes; None leaves the document without one, for prediction.
        Raises:
            ExampleRefusal: a text is empty, or too long where truncation is `drop`.
        """
        texts = [self._tokenizer.encode(text)] + ([] if second is None else [self._tokenizer.encode(second)])
        if not all(texts):
            raise ExampleRefusal("empty_text")
        frame = self._frames[len(texts)]
        room = self._seq_length - frame.num_special
        if room < len(texts):
            raise ExampleRefusal("too_long", f"special tokens leave room for {room} tokens")
        total = sum(map(len, texts))
        if total > room:
            if self._truncation == "drop":
                raise ExampleRefusal("too_long", f"{total} tokens of text, a row has room for {room}")
            sizes = [room] if second is None else _share_room(len(texts[0]), len(texts[1]), room=room)
            texts = [cut(ids, size, self._truncation) for ids, size in zip(texts, sizes, strict=True)]
        document, _ = frame.assemble(texts)
        if label is not None:
            document.labels[0] = label
        return replace(document, is_truncated=total > room)


def _share_room(first: int, second: int, *, room: int) -> list[int]:
    """Return how many tokens of each text are kept when the longer one is cut until both fit."""
    if first <= room // 2:
        return [first, room - first]
    if second <= room // 2:
        return [room - second, second]
    # Both are cut to the same length; an odd token stays with the longer one, with the second where they are equal.
    odd = room % 2
    return [room // 2 + odd, room // 2] if first > second else [room // 2, room // 2 + odd]
