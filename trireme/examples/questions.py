"""Encode questions to texts whose answer is a passage of the text; long texts are cut into overlapping windows."""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace

from trireme.examples.document import EncodedDocument, ExampleRefusal
from trireme.examples.frame import Frame
from trireme.shards.questions import ContextPlace
from trireme.tokenizer.tokenizer import Tokenizer

MAX_DEFAULT_STRIDE = 128
"""Of the reference scripts for SQuAD, for rows of 384 tokens."""


def default_stride(seq_length: int) -> int:
    """Return the tokens of the text that two neighboring windows share, if nobody says."""
    return min(MAX_DEFAULT_STRIDE, seq_length // 4)


@dataclass(frozen=True, kw_only=True)
class Window:
    """Hold a document with the question and a part of the text."""

    document: EncodedDocument
    """Labels: the positions of the answer's first and last token, at the first two tokens; 0, 0 for no answer here."""
    context: ContextPlace
    """Where the part is, also kept with the document."""
    offsets: tuple[tuple[int, int], ...]
    """Characters [begin, end) of the whole text, of each token of the part."""


class QuestionEncoder:
    """Encode questions.

    Args:
        tokenizer: of the model.
        seq_length: tokens that a window may have.
        stride: tokens of the text that two neighboring windows share.
    Source: transformers, run_qa.py (windows; one without the whole answer has none).
    """

    def __init__(self, tokenizer: Tokenizer, *, seq_length: int, stride: int) -> None:
        self._tokenizer, self._seq_length, self._stride = tokenizer, seq_length, stride
        self._frame = Frame(tokenizer, num_texts=2)

    def encode(self, question: str, context: str, answers: Sequence[tuple[int, str]] | None = None) -> list[Window]:
        """Encode a question into one window or several.

        Args:
            answers: (offset in characters, text); the first one is learned, and none means that there is no answer.
                None leaves the documents without labels, for prediction.
        Raises:
            ExampleRefusal: a text is empty, the question leaves no room for the text, or no window holds the answer.
        """
        asked = self._tokenizer.encode(question)
        ids, offsets = self._tokenizer.encode_with_offsets(context)
        if not asked or not ids:
            raise ExampleRefusal("empty_text")
        room = self._seq_length - self._frame.num_special - len(asked)
        if room <= self._stride and room < len(ids):
            raise ExampleRefusal("too_long", f"the question has {len(asked)} tokens and leaves room for {room} of text")
        answer = _find_tokens(offsets, answers[0]) if answers else None
        windows, num_with_answer = [], 0
        for begin in range(0, max(1, len(ids) - self._stride), max(1, room - self._stride)):
            part = slice(begin, min(begin + room, len(ids)))
            document, (_, place) = self._frame.assemble([asked, ids[part]])
            if answers is not None:
                first, last = 0, 0
                if answer is not None and part.start <= answer[0] and answer[1] < part.stop:
                    first, last = (token - begin + place for token in answer)
                    num_with_answer += 1
                document.labels[:2] = first, last
            shown = ContextPlace(begin=place, first=begin, num_tokens=part.stop - part.start)
            document = replace(document, context=shown)
            windows.append(Window(document=document, context=shown, offsets=tuple(offsets[part])))
        if answers and not num_with_answer:
            raise ExampleRefusal("no_target", "no window holds the whole answer")
        return windows


def _find_tokens(offsets: Sequence[tuple[int, int]], answer: tuple[int, str]) -> tuple[int, int] | None:
    """Return the first and last token of an answer; None where the tokenizer keeps nothing of it."""
    begin, end = answer[0], answer[0] + len(answer[1])
    first = bisect_right([offset[1] for offset in offsets], begin)
    last = bisect_left([offset[0] for offset in offsets], end) - 1
    return (first, last) if first <= last else None
