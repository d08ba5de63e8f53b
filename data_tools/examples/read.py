"""Read the examples of a file in any of a task's formats, recognized by the file's content."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from data_tools.examples.chat_formats import (
    parse_alpaca,
    parse_completion,
    parse_messages,
    parse_preference,
    parse_sharegpt,
)
from data_tools.examples.columns import Columns, parse_labelled_text, parse_tagged_words
from data_tools.examples.conll import read_conll
from data_tools.examples.example import BadLine, Conversation, Example, FieldError, Preference, ReadExample
from data_tools.examples.rows import Row, open_binary, read_rows
from data_tools.examples.squad import read_squad
from trireme.shards.examples import Task

AUTO = "auto"
FORMATS: dict[Task, tuple[str, ...]] = {
    "sft": ("messages", "sharegpt", "alpaca", "completion"),
    "classify": ("table",),
    "tag": ("conll", "tokens"),
    "qa": ("squad",),
    "dpo": ("preference",),
}
"""Task -> formats of its files; `auto` recognizes them."""
_FIELDS = {
    "messages": "messages",
    "sharegpt": "conversations",
    "alpaca": "instruction, output",
    "completion": "prompt, completion",
}


@dataclass(frozen=True, kw_only=True)
class ReadOptions:
    """Say how to read the files of a task."""

    task: Task
    format: str = AUTO
    columns: Columns = field(default_factory=Columns)
    has_template: bool = False
    """The model has a chat template."""


def read_file(path: Path, options: ReadOptions) -> Iterator[ReadExample | BadLine]:
    """Yield the examples of a file in order, and what is malformed in it.

    Raises:
        OSError: it cannot be read.
    """
    if options.task == "qa":
        yield from read_squad(path)
    elif options.task == "tag" and (
        options.format == "conll" or (options.format == AUTO and not begins_with_json(path))
    ):
        yield from read_conll(path, columns=options.columns)
    else:
        yield from _read_records(path, options)


def _read_records(path: Path, options: ReadOptions) -> Iterator[ReadExample | BadLine]:
    parse: Callable[[Mapping[str, Any]], Example] | None = None
    for row in read_rows(path):
        if isinstance(row, BadLine):
            yield row
            continue
        try:
            parse = parse or _find_parser(row.values, options)
            example = parse(row.values)
            _check_template(example, options)
        except FieldError as error:
            yield error.at(row.line)
            if parse is None:
                return  # every line would say the same
        else:
            yield ReadExample(line=row.line, example=example)


def _find_parser(values: Mapping[str, Any], options: ReadOptions) -> Callable[[Mapping[str, Any]], Example]:
    """Return the parser of a file whose first record has these fields."""
    if options.task == "classify":
        return partial(parse_labelled_text, columns=options.columns.resolve(values))
    if options.task == "tag":
        return partial(parse_tagged_words, columns=options.columns)
    if options.task == "dpo":
        return parse_preference
    chosen = options.format if options.format != AUTO else _recognize(values)
    parsers: dict[str, Callable[[Mapping[str, Any]], Example]] = {
        "messages": parse_messages,
        "sharegpt": parse_sharegpt,
        "alpaca": partial(parse_alpaca, has_template=options.has_template),
        "completion": parse_completion,
    }
    return parsers[chosen]


def _recognize(values: Mapping[str, Any]) -> str:
    if "messages" in values:
        return "messages"
    if "conversations" in values:
        turns = values["conversations"]
        is_openai = isinstance(turns, list) and turns and isinstance(turns[0], Mapping) and "role" in turns[0]
        return "messages" if is_openai else "sharegpt"
    if "instruction" in values:
        return "alpaca"
    if "prompt" in values and "completion" in values:
        return "completion"
    known = "; ".join(f"{name}: {fields}" for name, fields in _FIELDS.items())
    message = f"has none of the known sets of fields ({known})"
    raise FieldError("", message, fix="Rename its fields.", value=", ".join(values))


def _check_template(example: Example, options: ReadOptions) -> None:
    needs = isinstance(example, Conversation) or (
        isinstance(example, Preference) and not isinstance(example.chosen, str)
    )
    if needs and not options.has_template:
        fix = "Set --chat-template, or write prompt and completion as texts."
        raise FieldError("", "has messages, and the model has no chat template", fix=fix)


def find_columns(path: Path, options: ReadOptions) -> Columns:
    """Return the columns that are read of a file that `read_file` reads: the given ones, or the usual names found.

    Raises:
        OSError: it cannot be read.
    """
    if options.task == "classify" or (options.task == "tag" and options.format != "conll" and begins_with_json(path)):
        for row in read_rows(path):
            if isinstance(row, Row):
                columns = options.columns
                return columns.resolve(row.values) if options.task == "classify" else columns.resolve_words(row.values)
    return options.columns


def begins_with_json(path: Path) -> bool:
    """Return whether a file is one of JSON or Parquet."""
    with open_binary(path) as stream:
        head = stream.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()
    return head.startswith((b"{", b"[{", b"PAR1"))
