"""Read the records that a model is to predict, with their labels where there are any.

The fields are those that a user names, else those of the examples that the model was fine-tuned on, else usual names.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_tools.examples.columns import (
    LABEL_NAMES,
    NUMBER_NAMES,
    SECOND_NAMES,
    TAGS_NAMES,
    TEXT_NAMES,
    WORDS_NAMES,
    Columns,
    take_classes,
)
from data_tools.examples.conll import read_conll
from data_tools.examples.example import BadLine, FieldError, Question, ReadExample, TaggedWords
from data_tools.examples.read import begins_with_json
from data_tools.examples.rows import open_binary, read_rows
from data_tools.examples.squad import read_squad
from trainer.inference.predictors import TaskOfModel
from trireme.errors import ConfigError, Violation, raise_if_any

_MAX_ERRORS = 20
_QUESTION, _CONTEXT, _ANSWERS = "question", "context", "answers"


@dataclass(frozen=True, kw_only=True)
class InputFields:
    """Name the fields of records."""

    text: str
    """The text, the words or the question."""
    second: str | None = None
    """A second text, or the text that answers."""
    label: str | None = None
    """None if there are no labels."""


@dataclass(frozen=True, kw_only=True)
class Given:
    """Name the fields that a user names; None where the usual names are tried."""

    text: str | None = None
    second: str | None = None
    label: str | None = None


def read_records(path: Path, task: TaskOfModel, given: Given) -> tuple[list[Mapping[str, Any]], InputFields]:
    """Read a file: JSON lines, a JSON array, CSV, TSV or Parquet; also CoNLL for tags, and SQuAD for questions.

    Raises:
        ConfigError: lines are malformed or lack a field; the first ones are named.
        OSError: it cannot be read.
    """
    records: list[Mapping[str, Any]] = []
    found: list[Violation] = []
    fields: InputFields | None = None
    of_records = Given() if _is_conll(path, task) else given  # there the given ones are numbers
    for line, values in _list_values(path, task, given):
        if isinstance(values, BadLine):
            found.append(_violation(path, values.line, values.message, values.fix))
        else:
            fields = fields or _find_fields(values, task, of_records, path=path)
            if problem := _find_problem(values, fields, task):
                found.append(_violation(path, line, problem, "Correct the record."))
            records.append(values)
        if len(found) == _MAX_ERRORS:
            break
    raise_if_any(found)
    if fields is None:
        fix = "Give a file with records."
        raise ConfigError([Violation(path="--input", value=path, message="contains no records", fix=fix)])
    return records, fields


def _list_values(path: Path, task: TaskOfModel, given: Given) -> Iterable[tuple[int, dict[str, Any] | BadLine]]:
    """Yield the records of a file with their lines."""
    if task.task == "qa" and _is_squad(path):
        source: Iterable[Any] = read_squad(path)
    elif _is_conll(path, task):
        source = read_conll(path, columns=_number_columns(task, given))
    else:
        source = read_rows(path)
    for one in source:
        if isinstance(one, BadLine):
            yield one.line, one
        elif isinstance(one, ReadExample):
            yield one.line, _values_of(one.example)
        else:
            yield one.line, one.values


def _is_conll(path: Path, task: TaskOfModel) -> bool:
    return task.task == "tag" and not begins_with_json(path) and path.suffix.lower() not in (".csv", ".tsv")


def _number_columns(task: TaskOfModel, given: Given) -> Columns:
    """Return the columns of CoNLL's format: given numbers, else those of the examples, if they had numbers."""
    texts = task.texts
    recorded = (None, None) if texts is None else (texts.text_column, texts.label_column)
    text, label = (name if name is not None and name.isdecimal() else None for name in recorded)
    return Columns(text=given.text or text, label=given.label or label)


def _before(name: str | None, usual: tuple[str, ...]) -> tuple[str, ...]:
    """Return names to try, this one first if there is one."""
    return usual if name is None else (name, *usual)


def _is_squad(path: Path) -> bool:
    """Return whether a file is one JSON object with articles, and not one object a line."""
    with open_binary(path) as stream:
        head = stream.readline().removeprefix(b"\xef\xbb\xbf").strip()
    if not head.startswith(b"{"):
        return False
    try:
        return isinstance(json.loads(head).get("data"), list)
    except ValueError:
        return True  # an object of several lines


def _values_of(example: Any) -> dict[str, Any]:
    if isinstance(example, TaggedWords):
        return {"tokens": list(example.words), "tags": list(example.tags)}
    assert isinstance(example, Question)
    answers = [{"text": text, "answer_start": start} for start, text in example.answers]
    return {"id": example.id, _QUESTION: example.question, _CONTEXT: example.context, _ANSWERS: answers}


def _find_fields(values: Mapping[str, Any], task: TaskOfModel, given: Given, *, path: Path) -> InputFields:
    """Choose the fields from those of the first record.

    Raises:
        ConfigError: there is no such field.
    """
    text: tuple[str, ...]
    second: tuple[str, ...]
    label: tuple[str, ...]
    if task.task == "tag":
        text, second, label = (*WORDS_NAMES, *TEXT_NAMES), (), TAGS_NAMES
    elif task.task == "qa":
        text, second, label = (_QUESTION,), (_CONTEXT,), (_ANSWERS,)
    else:
        text, second = TEXT_NAMES, SECOND_NAMES
        label = NUMBER_NAMES if task.kind == "value" else LABEL_NAMES
    has_second = task.task == "qa" or given.second is not None
    if task.texts is not None and task.task != "qa":
        learned = task.texts
        text, label = _before(learned.text_column, text), _before(learned.label_column, label)
        second = () if learned.second_column is None else _before(learned.second_column, second)
        has_second |= learned.second_column is not None
    return InputFields(
        text=_need(values, given.text, text, option="--text-column", path=path),
        second=_need(values, given.second, second, option="--pair-column", path=path)
        if has_second
        else next((name for name in second if name in values), None),
        label=_need(values, given.label, (), option="--label-column", path=path)
        if given.label is not None
        else next((name for name in label if name in values), None),
    )


def _need(values: Mapping[str, Any], given: str | None, usual: tuple[str, ...], *, option: str, path: Path) -> str:
    names = usual if given is None else (given,)
    found = next((name for name in names if name in values), None)
    if found is None:
        fix = f"Set {option} to one of {', '.join(values)}."
        raise ConfigError([Violation(path=str(path), value="", message=f"has no field {names[0]}", fix=fix)])
    return found


def _find_problem(values: Mapping[str, Any], fields: InputFields, task: TaskOfModel) -> str:
    """Return what is wrong with the texts of a record; empty if nothing is."""
    for name in (fields.text, fields.second):
        if name is None:
            continue
        value = values.get(name)
        is_list_of_words = task.task == "tag" and isinstance(value, list)
        if not isinstance(value, str) and not is_list_of_words:
            return f"{name} is missing" if value is None else f"{name} must be a text"
    return ""


def _separator(task: TaskOfModel) -> str:
    """Return what stands between the classes of a text in a cell."""
    return Columns().separator if task.texts is None else task.texts.label_separator


def _violation(path: Path, line: int, message: str, fix: str) -> Violation:
    return Violation(path=f"{path}:{line}", value="", message=message, fix=fix)


class UnknownLabel(ValueError):
    """A label is none that the model knows."""


def read_label(values: Mapping[str, Any], fields: InputFields, task: TaskOfModel) -> Any:
    """Return the label of a record, as `trainer.scores.score.score` takes it.

    Raises:
        UnknownLabel: it is missing, or none of the model's.
    """
    assert fields.label is not None, "no label"
    found = values.get(fields.label)
    numbers = {name: number for number, name in enumerate(task.labels)}
    try:
        if task.task == "tag":
            words = values[fields.text]
            tags = list(map(str, found)) if isinstance(found, list) else str(found).split()
            count = len(words.split() if isinstance(words, str) else words)
            if len(tags) != count:
                raise UnknownLabel(f"{len(tags)} tags for {count} words")
            return tags
        if task.task == "qa":
            answers = found if isinstance(found, list) else (found or {}).get("text", [])
            return [one["text"] if isinstance(one, Mapping) else str(one) for one in answers]
        if task.kind == "value":
            return float(found)  # type: ignore[arg-type]
        if task.kind == "multi":
            return [numbers[name] for name in take_classes(found, name=fields.label, separator=_separator(task))]
        return numbers[str(int(found) if isinstance(found, bool) else found).strip()]
    except (KeyError, TypeError, ValueError, AttributeError, FieldError) as error:
        raise UnknownLabel(str(found)) from error
