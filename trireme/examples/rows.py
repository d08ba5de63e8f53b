"""Verify finished rows of examples by named checks: wrong labels make a model silently worse, never a failing run."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from trireme.examples.document import Span, find_spans
from trireme.shards.examples import NO_LABEL, ExamplesRecord, decode_labels
from trireme.tokenizer.tokenizer import Tokenizer

Check = Literal[
    "row_begins_a_document",
    "padding_has_no_label",
    "target_is_next_token",
    "end_token_is_target",
    "targets_spell_the_answer",
    "label_is_at_its_place",
    "label_is_in_range",
]
CHECKS: dict[Check, str] = {
    "row_begins_a_document": "the first token of each row begins a document",
    "padding_has_no_label": "only the last document of a row has no label, and it is all padding",
    "target_is_next_token": "each target is the next token of its own document",
    "end_token_is_target": "the last target of each answer is the token that ends it",
    "targets_spell_the_answer": "the targets, decoded, are what the assistant said, and nothing else",
    "label_is_at_its_place": "labels are where the task has them, such as at a document's first token",
    "label_is_in_range": "labels are numbers of classes, or places inside their document",
}
"""Named check -> what it asserts."""


@dataclass(frozen=True, kw_only=True)
class RowFault:
    """Describe a row that fails a check."""

    check: Check
    row: int
    position: int
    """Of the token in the row."""
    detail: str

    def __str__(self) -> str:
        return f"{self.check}: row {self.row}, token {self.position}: {self.detail}"


@dataclass(frozen=True, kw_only=True)
class Expected:
    """Hold what the labels of one document must say."""

    texts: tuple[str | None, ...] = ()
    """As in EncodedDocument; empty where they are not compared."""
    is_truncated: bool = False
    """Its last answer may have lost its end."""


def check_rows(
    tokens: np.ndarray,
    codes: np.ndarray,
    *,
    record: ExamplesRecord,
    tokenizer: Tokenizer,
    expected: Sequence[Sequence[Expected]] | None = None,
    first_row: int = 0,
) -> list[RowFault]:
    """Find what is wrong with rows.

    Args:
        tokens: [n, seq_length] integers.
        codes: [n, seq_length] integers, of the shard of labels.
        record: what the rows are.
        tokenizer: of the tokens.
        expected: of the labelled documents of each row; None leaves out the check of the answers' text, and a last
            answer may then lack its end token only where its document fills the row.
        first_row: number of the first of these rows, for the faults.
    """
    labels, starts = decode_labels(codes)
    faults: list[RowFault] = []
    for number in range(len(tokens)):
        row = _Row(
            number=first_row + number,
            tokens=tokens[number],
            labels=labels[number],
            starts=starts[number],
            documents=_find_documents(starts[number]),
        )
        faults += _check_borders(row, record)
        if record.task in ("sft", "dpo"):
            faults += _check_next_tokens(row, record)
            answers = None if expected is None else expected[number]
            faults += _check_answers(row, tokenizer=tokenizer, expected=answers)
        else:
            faults += _check_places(row, record)
    return faults


@dataclass(frozen=True, kw_only=True)
class _Row:
    number: int
    tokens: np.ndarray
    labels: np.ndarray
    starts: np.ndarray
    documents: list[Span]

    @property
    def labelled(self) -> list[Span]:
        return [document for document in self.documents if (self.labels[slice(*document)] != NO_LABEL).any()]

    def fault(self, check: Check, position: int, detail: str) -> RowFault:
        return RowFault(check=check, row=self.number, position=position, detail=detail)


def _find_documents(starts: np.ndarray) -> list[Span]:
    begins = [0, *(int(place) for place in np.flatnonzero(starts) if place)]
    return [Span(begin, end) for begin, end in zip(begins, [*begins[1:], len(starts)], strict=True)]


def _check_borders(row: _Row, record: ExamplesRecord) -> Iterator[RowFault]:
    if not row.starts[0]:
        yield row.fault("row_begins_a_document", 0, "continues a document")
    for number, document in enumerate(row.documents):
        inside = slice(*document)
        is_padding = number == len(row.documents) - 1 and (row.tokens[inside] == record.pad_token_id).all()
        has_label = (row.labels[inside] != NO_LABEL).any()
        if is_padding and has_label:
            yield row.fault("padding_has_no_label", document.begin, "padding has a label")
        elif not is_padding and not has_label:
            yield row.fault("padding_has_no_label", document.begin, f"document {number} of the row has no label")


def _check_next_tokens(row: _Row, record: ExamplesRecord) -> Iterator[RowFault]:
    following = np.append(row.tokens[1:], -1)
    crosses = np.append(row.starts[1:], True)
    wrong = (row.labels != NO_LABEL) & ((row.labels != following) | crosses)
    for place in np.flatnonzero(wrong)[:1]:
        has = "the end of the document" if crosses[place] else f"token {following[place]}"
        yield row.fault("target_is_next_token", int(place), f"the target is {row.labels[place]}, and {has} follows")


def _check_answers(row: _Row, *, tokenizer: Tokenizer, expected: Sequence[Expected] | None) -> Iterator[RowFault]:
    ends = set(tokenizer.special_tokens.values()) | {tokenizer.eos_id}
    whole = row.labelled
    if expected is not None and len(expected) != len(whole):
        detail = f"{len(whole)} documents have targets, and {len(expected)} were written"
        yield row.fault("targets_spell_the_answer", 0, detail)
        return
    for number, document in enumerate(whole):
        wanted = None if expected is None else expected[number]
        labels = row.labels[slice(*document)]
        spans = find_spans(labels)
        may_be_cut = wanted.is_truncated if wanted else len(labels) in (len(row.tokens), len(row.tokens) // 2)
        for place, span in enumerate(spans):
            position = document.begin + span.end - 1
            is_cut = may_be_cut and place == len(spans) - 1 and span.end >= len(labels) - 1
            if int(labels[span.end - 1]) not in ends and not is_cut:
                named = tokenizer.token_name(int(labels[span.end - 1]))
                yield row.fault("end_token_is_target", position, f"the answer ends with {named!r}")
        if wanted is not None and wanted.texts:
            yield from _compare_texts(row, document, labels, spans, wanted.texts, tokenizer=tokenizer)


def _compare_texts(
    row: _Row,
    document: Span,
    labels: np.ndarray,
    spans: list[Span],
    texts: tuple[str | None, ...],
    *,
    tokenizer: Tokenizer,
) -> Iterator[RowFault]:
    if len(spans) != len(texts):
        detail = f"{len(spans)} spans of targets for {len(texts)} answers"
        yield row.fault("targets_spell_the_answer", document.begin, detail)
        return
    for span, text in zip(spans, texts, strict=True):
        found = _plain(tokenizer.decode(labels[slice(*span)].tolist()))
        # A tokenizer may change a text for good, such as by dropping accents.
        if text is not None and found != _plain(text) and found != _plain(tokenizer.decode(tokenizer.encode(text))):
            detail = f"{found[:60]!r} instead of {_plain(text)[:60]!r}"
            yield row.fault("targets_spell_the_answer", document.begin + span.begin, detail)


def _plain(text: str) -> str:
    """Return a text without its spaces: templates strip answers, and tokenizers put spaces before words."""
    return "".join(text.split())


def _check_places(row: _Row, record: ExamplesRecord) -> Iterator[RowFault]:
    for document in row.labelled:
        labels = row.labels[slice(*document)]
        places = np.flatnonzero(labels != NO_LABEL)
        allowed = {"classify": [0], "qa": [0, 1]}.get(record.task)
        if allowed is not None and places.tolist() != allowed:
            yield row.fault("label_is_at_its_place", document.begin, f"labels are at tokens {places[:5].tolist()}")
            continue
        first, last = (labels[0], labels[1]) if record.task == "qa" else (0, 0)
        limit = _find_limit(record, num_tokens=len(labels))
        if labels[places].max() >= limit or last < first:
            yield row.fault("label_is_in_range", document.begin, f"labels {labels[places][:5].tolist()}")


def _find_limit(record: ExamplesRecord, *, num_tokens: int) -> int:
    """Return the number that labels stay below."""
    if record.task == "qa":
        return num_tokens
    if record.task == "classify" and record.target_kind != "single":
        return 2**30 + 1 if record.target_kind == "value" else int(2 ** len(record.labels))
    return len(record.labels)
