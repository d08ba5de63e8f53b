"""Show a row of examples: what is input, what is target, what is padding, and where documents begin."""

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from trireme.examples.document import Span, find_spans
from trireme.progress import format_number
from trireme.shards.examples import LABELS_SUFFIX, NO_LABEL, ExamplesRecord, decode_labels, decode_values
from trireme.shards.shard import ShardReader, shard_file
from trireme.tokenizer.tokenizer import Tokenizer

Kind = Literal["input", "target", "special", "special target"]
_COLORS: dict[Kind, str] = {"input": "", "target": "1;32", "special": "2", "special target": "1;33"}
"""ANSI codes: targets are bold green, and bold yellow where they are special tokens; other special tokens are faint."""
_BORDER_COLOR = "36"
_MARKS = ("[[", "]]")
"""Around targets where there are no colors."""


def may_color() -> bool:
    """Return whether stdout is a terminal that shows colors; the variable NO_COLOR forbids them."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def describe_examples(record: ExamplesRecord) -> Iterator[str]:
    """Describe what the rows of a shard are, line by line."""
    noun = "pair" if record.task == "dpo" else "example"
    yield (
        f"  rows of {format_number(record.num_examples, noun)} for task {record.task},"
        f" {record.seq_length} tokens each, padded with token {record.pad_token_id}"
    )
    if record.labels:
        yield f"  labels: {', '.join(record.labels)}"
    if record.value_range is not None:
        yield f"  labels: numbers from {record.value_range[0]:g} to {record.value_range[1]:g}"


def describe_row(
    reader: ShardReader, row: int, *, record: ExamplesRecord, tokenizer: Tokenizer | None, is_colored: bool
) -> Iterator[str]:
    """Describe a row, document by document.

    Args:
        tokenizer: None shows token ids.
        is_colored: with ANSI colors; else targets are in double brackets.
    Raises:
        ConfigError: the shard of labels is damaged.
    """
    tokens = np.asarray(reader.document(row)).astype(np.int64)
    codes = ShardReader(shard_file(reader.prefix, LABELS_SUFFIX)).document(row)
    labels, starts = decode_labels(np.asarray(codes))
    writer = _Writer(tokenizer, is_colored=is_colored)
    place = "the label is that of the whole document" if record.task == "classify" else writer.legend()
    yield f"row {row}: {place}"
    begins = np.flatnonzero(starts).tolist()
    for number, (begin, end) in enumerate(zip(begins, [*begins[1:], len(tokens)], strict=True)):
        document = _Document(tokens=tokens[begin:end], labels=labels[begin:end])
        title = f"--- document {number}, tokens {begin} to {end - 1}"
        if document.is_padding(record):
            yield writer.border(f"{title}: {format_number(end - begin, 'token')} of padding")
            continue
        yield writer.border(f"{title}{_describe_label(document, number, record, begin=begin)}")
        yield writer.write(document, record)


@dataclass(frozen=True, kw_only=True)
class _Document:
    tokens: np.ndarray
    labels: np.ndarray

    def is_padding(self, record: ExamplesRecord) -> bool:
        return bool((self.labels == NO_LABEL).all() and (self.tokens == record.pad_token_id).all())

    def targets(self, record: ExamplesRecord) -> np.ndarray:
        """Return which tokens are shown as targets: [n] bool."""
        is_target = np.zeros(len(self.tokens), np.bool_)
        if record.task in ("sft", "dpo"):
            is_target[1:] = self.labels[:-1] != NO_LABEL
        elif record.task == "tag":
            is_target = self.labels != NO_LABEL
        elif record.task == "qa" and self.labels[1] > 0:
            is_target[self.labels[0] : self.labels[1] + 1] = True
        return is_target


def _describe_label(document: _Document, number: int, record: ExamplesRecord, *, begin: int) -> str:
    """Return what a document's title says of its label; `begin` is the place of its first token in the row."""
    if record.task == "dpo":
        return f", {('chosen', 'rejected')[number % 2]}"
    if record.task == "qa":
        first, last = document.labels[:2].tolist()
        return f", answer in tokens {begin + first} to {begin + last}" if last > 0 else ", no answer here"
    if record.task != "classify":
        return ""
    label = int(document.labels[0])
    if record.value_range is not None:
        return f", label {decode_values(np.array([label]), value_range=record.value_range)[0]:g}"
    if record.target_kind == "multi":
        names = [name for bit, name in enumerate(record.labels) if label >> bit & 1]
        return f", labels {', '.join(names) or 'none'}"
    return f", label {record.labels[label]}"


class _Writer:
    def __init__(self, tokenizer: Tokenizer | None, *, is_colored: bool) -> None:
        self._tokenizer, self._is_colored = tokenizer, is_colored
        self._specials = frozenset() if tokenizer is None else frozenset(tokenizer.special_tokens.values())

    def legend(self) -> str:
        if not self._is_colored:
            return f"targets are in {' '.join(_MARKS)}, other tokens are input"
        shown = [_paint(kind, color) for kind, color in _COLORS.items()]
        return f"{', '.join(shown)}"

    def border(self, text: str) -> str:
        return _paint(text, _BORDER_COLOR) if self._is_colored else text

    def write(self, document: _Document, record: ExamplesRecord) -> str:
        is_target = document.targets(record)
        # Each tagged word is shown on its own; other targets run on.
        if record.task == "tag":
            borders = [*np.flatnonzero(is_target).tolist(), len(is_target)]
            spans = [Span(begin, begin + 1) for begin in borders[:-1]]
        else:
            spans = find_spans(np.where(is_target, 0, NO_LABEL))
        pieces, place = [], 0
        for span in spans:
            pieces += [self._paint_part(document, place, span.begin, is_target=False)]
            shown = self._paint_part(document, span.begin, span.end, is_target=True)
            tag = f"/{record.labels[document.labels[span.begin]]}" if record.task == "tag" else ""
            pieces.append(shown + tag if self._is_colored else f"{_MARKS[0]}{shown}{tag}{_MARKS[1]}")
            place = span.end
        pieces.append(self._paint_part(document, place, len(is_target), is_target=False))
        return "".join(pieces)

    def _paint_part(self, document: _Document, begin: int, end: int, *, is_target: bool) -> str:
        ids = document.tokens.tolist()
        if self._tokenizer is None:
            return "".join(f"{token} " for token in ids[begin:end])
        shown = []
        place = begin
        while place < end:
            if ids[place] in self._specials:
                kind: Kind = "special target" if is_target else "special"
                shown.append(self._paint(self._tokenizer.token_name(ids[place]) or "", kind))
                place += 1
                continue
            stop = place
            while stop < end and ids[stop] not in self._specials:
                stop += 1
            # What a token spells may depend on those before it, such as a leading space.
            first = place
            while first > 0 and ids[first - 1] not in self._specials:
                first -= 1
            before = self._tokenizer.decode(ids[first:place])
            shown.append(
                self._paint(self._tokenizer.decode(ids[first:stop])[len(before) :], "target" if is_target else "input")
            )
            place = stop
        return "".join(shown)

    def _paint(self, text: str, kind: Kind) -> str:
        # A text may hold what a terminal takes as commands.
        plain = "".join(c if c.isprintable() or c in "\n\t" else repr(c)[1:-1] for c in text)
        return _paint(plain, _COLORS[kind]) if self._is_colored else plain


def _paint(text: str, color: str) -> str:
    return f"\x1b[{color}m{text}\x1b[0m" if color else text
