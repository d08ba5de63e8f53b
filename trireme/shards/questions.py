"""Keep the questions of rows beside them: PREFIX.questions.jsonl, from which whole questions are scored.

A question to a long text has several windows, which packing puts into any rows. A line holds a question with its text,
all right answers, and the place of each window that became a document.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from trireme.errors import ConfigError, Violation
from trireme.shards.shard import shard_file

QUESTIONS_SUFFIX = ".questions.jsonl"


class ContextPlace(NamedTuple):
    """Hold which part of a text is in a window, and where: all in tokens."""

    begin: int
    """Position in the document of the part's first token."""
    first: int
    """Number of that token in the whole text."""
    num_tokens: int
    """Tokens of the part."""


class QuestionWindow(NamedTuple):
    """Hold the place of a window."""

    row: int
    token: int
    """Position of its document in the row."""
    context: ContextPlace


@dataclass(frozen=True, kw_only=True)
class QuestionEntry:
    """Hold a question of a shard."""

    id: str
    question: str
    context: str
    """The text in which the answers are."""
    answers: tuple[str, ...]
    """Right ones; none where the text has no answer."""
    windows: tuple[QuestionWindow, ...]
    """In the order of the text."""


def format_question(entry: QuestionEntry) -> str:
    """Return the line of a question, with its end."""
    windows = [[window.row, window.token, *window.context] for window in entry.windows]
    values = {**vars(entry), "answers": list(entry.answers), "windows": windows}
    return json.dumps(values, ensure_ascii=False) + "\n"


def read_questions(prefix: str | Path) -> list[QuestionEntry] | None:
    """Read the questions of a shard; None where they are not kept, as by earlier versions.

    Raises:
        ConfigError: the file is damaged.
    """
    path = shard_file(prefix, QUESTIONS_SUFFIX)
    if not path.is_file():
        return None
    found: list[QuestionEntry] = []
    contexts: dict[str, str] = {}
    try:
        with path.open(encoding="utf-8") as stream:
            for line in stream:
                found.append(_parse(json.loads(line), contexts=contexts))
    except (OSError, ValueError, TypeError, KeyError) as error:
        message, fix = f"line {len(found) + 1} is damaged: {error}", "Prepare the examples again."
        raise ConfigError([Violation(path=str(path), value="", message=message, fix=fix)]) from error
    return found


def _parse(values: dict[str, Any], *, contexts: dict[str, str]) -> QuestionEntry:
    """Build an entry; equal texts are kept once."""
    context = str(values["context"])
    return QuestionEntry(
        id=str(values["id"]),
        question=str(values["question"]),
        context=contexts.setdefault(context, context),
        answers=tuple(map(str, values["answers"])),
        windows=tuple(_parse_windows(values["windows"])),
    )


def _parse_windows(windows: Sequence[Sequence[int]]) -> Iterator[QuestionWindow]:
    for row, token, begin, first, num_tokens in windows:
        yield QuestionWindow(row, token, ContextPlace(begin, first, num_tokens))
