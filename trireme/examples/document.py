"""Hold an encoded example: its tokens, the label of each, and what the labels must say."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from trireme.records import Truncation as Truncation
from trireme.shards.examples import NO_LABEL
from trireme.shards.questions import ContextPlace

Reason = Literal[
    "no_target",
    "too_long",
    "empty_turn",
    "empty_text",
    "unknown_role",
    "template_refusal",
    "prefix_property",
    "same_answers",
    "duplicate",
    "malformed",
]
REASONS: dict[Reason, str] = {
    "no_target": "no token to learn from",
    "too_long": "longer than a row",
    "empty_turn": "a message without text",
    "empty_text": "a text without tokens",
    "unknown_role": "a role that is none of system, user, assistant, tool",
    "template_refusal": "the chat template refuses the conversation",
    "prefix_property": "the conversation's beginning is rendered or tokenized in another way than inside the whole",
    "same_answers": "the chosen and the rejected answer are equal",
    "duplicate": "equal to an earlier example",
    "malformed": "malformed",
}
"""Reason of a rejected example -> what it says."""


class ExampleRefusal(Exception):
    """Report an example that cannot be trained on; it is counted and left out.

    Args:
        detail: what exactly is wrong; empty where the reason says all.
    """

    def __init__(self, reason: Reason, detail: str = "") -> None:
        super().__init__(f"{REASONS[reason]}{f': {detail}' if detail else ''}")
        self.reason: Reason = reason
        self.detail = detail

    def __reduce__(self) -> tuple[type["ExampleRefusal"], tuple[Reason, str]]:
        return ExampleRefusal, (self.reason, self.detail)


@dataclass(frozen=True, kw_only=True)
class EncodedDocument:
    """Hold the tokens and labels of one document of a row; ExamplesRecord says what the labels of a task are."""

    tokens: np.ndarray
    """[n] int32."""
    labels: np.ndarray
    """[n] int64, NO_LABEL where there is none."""
    token_types: np.ndarray | None = None
    """[n] uint8: 0 for the first text and 1 for the second; None where the model has no such types."""
    texts: tuple[str | None, ...] = ()
    """sft and dpo: the text that each span of targets must spell, in order; None for a span that cannot be compared.
    Empty for a truncated document and for other tasks."""
    is_truncated: bool = False
    context: ContextPlace | None = None
    """qa: the part of the text that is in this window."""

    def __len__(self) -> int:
        return len(self.tokens)


class Span(NamedTuple):
    """Hold a range of positions, the end excluded."""

    begin: int
    end: int


def label_next_tokens(tokens: np.ndarray, is_target: np.ndarray) -> np.ndarray:
    """Return the labels of a document in which each target is predicted from the token before it.

    Args:
        tokens: [n] integers.
        is_target: [n] bool.
    Returns:
        [n] int64: tokens[t + 1] where that is a target, else NO_LABEL.
    """
    labels = np.full(len(tokens), NO_LABEL, np.int64)
    labels[:-1] = np.where(is_target[1:], tokens[1:], NO_LABEL)
    return labels


def fit_document(document: EncodedDocument, *, max_tokens: int, truncation: Truncation) -> EncodedDocument:
    """Cut a document whose labels are the next tokens to at most `max_tokens`, as `truncation` says.

    Raises:
        ExampleRefusal: it is too long and truncation is `drop`, or nothing to learn from is left.
    """
    size = len(document)
    if size > max_tokens:
        if truncation == "drop":
            raise ExampleRefusal("too_long", f"{size} tokens, a row has room for {max_tokens}")
        kept = slice(0, max_tokens) if truncation == "right" else slice(size - max_tokens, size)
        labels = document.labels[kept].copy()
        labels[-1] = NO_LABEL  # its target was cut off, or there was none
        document = EncodedDocument(tokens=document.tokens[kept], labels=labels, is_truncated=True)
    if (document.labels == NO_LABEL).all():
        raise ExampleRefusal("no_target", f"truncated from {size} tokens" if document.is_truncated else "")
    return document


def find_spans(labels: np.ndarray) -> list[Span]:
    """Return the runs of labelled positions, in order.

    Args:
        labels: [n] integers.
    """
    edges = np.diff(np.concatenate([[False], labels != NO_LABEL, [False]]).astype(np.int8))
    begins, ends = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)
    return [Span(int(begin), int(end)) for begin, end in zip(begins, ends, strict=True)]
