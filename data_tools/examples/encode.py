"""Encode examples, in this process or in several, in the order in which they were read."""

import itertools
import multiprocessing
import signal
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from data_tools.examples.example import (
    BadLine,
    Completion,
    Conversation,
    Example,
    LabelledText,
    Preference,
    Question,
    TaggedWords,
)
from data_tools.work.pool import end_with_parent
from trireme.errors import EXIT_STOPPED, RunStopped
from trireme.examples.chat import ConversationEncoder
from trireme.examples.classification import TextEncoder
from trireme.examples.completion import CompletionEncoder
from trireme.examples.document import EncodedDocument, ExampleRefusal, Truncation, fit_document
from trireme.examples.pairs import PreferenceEncoder, fit_pair
from trireme.examples.questions import QuestionEncoder
from trireme.examples.tags import WordEncoder
from trireme.shards.examples import TargetKind, Task, encode_value
from trireme.tokenizer.chat_template import ChatTemplate
from trireme.tokenizer.tokenizer import Tokenizer

CHUNK_EXAMPLES = 64
"""Examples that a process encodes at a time."""
CHUNKS_AHEAD = 4
"""Chunks for each process that are read ahead."""

Unit = tuple[EncodedDocument, ...]
"""Documents that stay together in a row: one, or the two of a preference."""


@dataclass(frozen=True, kw_only=True)
class EncodeSettings:
    """Hold what determines the tokens and labels of an example."""

    task: Task
    seq_length: int
    truncation: Truncation
    tokenizer: Path
    chat_template: str | None = None
    only_last: bool = False
    """sft: only the last answer of a conversation is a target."""
    labels: tuple[str, ...] = ()
    """Names of classes or tags; their places are their numbers."""
    target_kind: TargetKind = "single"
    value_range: tuple[float, float] | None = None
    stride: int = 128
    """qa: tokens of the text that two windows share."""


class Item(NamedTuple):
    """Hold an example with its place."""

    file: str
    line: int
    is_validation: bool
    example: Example | BadLine | ExampleRefusal
    """What is malformed or refused already is passed on, to be counted."""


class EncodedItem(NamedTuple):
    """Hold the documents of an example, or why it was refused."""

    file: str
    line: int
    is_validation: bool
    units: tuple[Unit, ...]
    """Several where a long text has several windows; empty for a refused example."""
    refusal: ExampleRefusal | None
    question: Question | None = None
    """qa: whose windows the units are."""


class ExampleEncoder:
    """Encode examples of a task.

    Raises:
        ConfigError: the tokenizer cannot be loaded.
        TemplateRefusal: the chat template is invalid.
    """

    def __init__(self, settings: EncodeSettings) -> None:
        self._settings = settings
        self.tokenizer = Tokenizer(settings.tokenizer)
        self._numbers = {name: number for number, name in enumerate(settings.labels)}
        self._completions = CompletionEncoder(self.tokenizer)
        self._conversations = None
        if settings.chat_template is not None:
            template = ChatTemplate(settings.chat_template, tokenizer=self.tokenizer)
            self._conversations = ConversationEncoder(self.tokenizer, template, only_last=settings.only_last)
        self._preferences = PreferenceEncoder(self._conversations, self._completions)
        limits = {"seq_length": settings.seq_length, "truncation": settings.truncation}
        self._texts = TextEncoder(self.tokenizer, **limits)  # type: ignore[arg-type]
        self._words = WordEncoder(self.tokenizer, **limits)  # type: ignore[arg-type]
        self._questions = QuestionEncoder(self.tokenizer, seq_length=settings.seq_length, stride=settings.stride)

    def encode(self, example: Example) -> tuple[Unit, ...]:
        """Encode an example.

        Raises:
            ExampleRefusal: it cannot be trained on.
        """
        limits = {"max_tokens": self._settings.seq_length, "truncation": self._settings.truncation}
        match example:
            case Conversation():
                assert self._conversations is not None, "messages without a chat template"
                return ((fit_document(self._conversations.encode(example.messages), **limits),),)  # type: ignore[arg-type]
            case Completion():
                document = self._completions.encode(example.prompt, example.completion)
                return ((fit_document(document, **limits),),)  # type: ignore[arg-type]
            case Preference():
                pair = self._preferences.encode(example.prompt, example.chosen, example.rejected)
                seq_length, truncation = self._settings.seq_length, self._settings.truncation
                return (fit_pair(pair, seq_length=seq_length, truncation=truncation),)
            case LabelledText():
                return ((self._texts.encode(example.text, example.second, label=self._label_of(example)),),)
            case TaggedWords():
                return ((self._words.encode(example.words, [self._numbers[tag] for tag in example.tags]),),)
            case Question():
                windows = self._questions.encode(example.question, example.context, example.answers)
                return tuple((window.document,) for window in windows)

    def _label_of(self, example: LabelledText) -> int:
        if self._settings.target_kind == "value":
            assert example.value is not None and self._settings.value_range is not None, "a number without a range"
            return encode_value(example.value, value_range=self._settings.value_range)
        numbers = [self._numbers[name] for name in example.labels]
        return sum(1 << number for number in numbers) if self._settings.target_kind == "multi" else numbers[0]


def encode_all(items: Iterable[Item], settings: EncodeSettings, *, num_workers: int) -> Iterator[EncodedItem]:
    """Encode examples; the results are in their order, whatever the number of processes.

    Raises:
        RunStopped: a process was killed.
    """
    if num_workers == 1:
        encoder = ExampleEncoder(settings)
        for item in items:
            yield _encode_item(item, encoder)
        return
    # Spawned: a forked copy of a process with threads may deadlock.
    context = multiprocessing.get_context("spawn")
    chunks = _chunk(items)
    waiting: deque[Future[list[EncodedItem]]] = deque()
    with ProcessPoolExecutor(num_workers, mp_context=context, initializer=_start, initargs=(settings,)) as pool:
        try:
            for chunk in chunks:
                waiting.append(pool.submit(_encode_chunk, chunk))
                if len(waiting) >= num_workers * CHUNKS_AHEAD:
                    yield from waiting.popleft().result()
            while waiting:
                yield from waiting.popleft().result()
        except BrokenProcessPool as error:
            message = "A worker process was killed, probably because memory ran out. Use fewer --num-workers."
            raise RunStopped(message, exit_code=EXIT_STOPPED) from error
        finally:
            for future in waiting:
                future.cancel()


def _chunk(items: Iterable[Item]) -> Iterator[list[Item]]:
    iterator = iter(items)
    while chunk := list(itertools.islice(iterator, CHUNK_EXAMPLES)):
        yield chunk


_encoders: list[ExampleEncoder] = []
"""Of this worker process."""


def _start(settings: EncodeSettings) -> None:
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends the others
    _encoders.append(ExampleEncoder(settings))


def _encode_chunk(items: list[Item]) -> list[EncodedItem]:
    return [_encode_item(item, _encoders[0]) for item in items]


def _encode_item(item: Item, encoder: ExampleEncoder) -> EncodedItem:
    units: tuple[Unit, ...] = ()
    refusal: ExampleRefusal | None = None
    if isinstance(item.example, BadLine):
        named = f"field {item.example.field}: " if item.example.field else ""
        refusal = ExampleRefusal("malformed", f"{named}{item.example.message}")
    elif isinstance(item.example, ExampleRefusal):
        refusal = item.example
    else:
        try:
            units = encoder.encode(item.example)
        except ExampleRefusal as error:
            refusal = error
    question = item.example if units and isinstance(item.example, Question) else None
    return EncodedItem(item.file, item.line, item.is_validation, units, refusal, question)
