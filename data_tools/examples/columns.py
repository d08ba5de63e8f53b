"""Take classified texts and tagged words from the columns of a table or the fields of JSON objects."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from data_tools.examples.example import FieldError, LabelledText, TaggedWords
from trireme.json_values import parse_json
from trireme.shards.examples import TargetKind

TEXT_NAMES = ("text", "sentence", "sentence1", "premise", "review", "content", "document")
SECOND_NAMES = ("text_pair", "sentence2", "hypothesis")
LABEL_NAMES = ("label", "labels", "class", "category", "target", "sentiment")
NUMBER_NAMES = ("score", "value", "rating", *LABEL_NAMES)
WORDS_NAMES = ("tokens", "words")
TAGS_NAMES = ("tags", "ner_tags", "pos_tags", "labels")
_OUTSIDE = "O"


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Name the columns of a table; None where the usual names are tried."""

    text: str | None = None
    second: str | None = None
    label: str | None = None
    kind: TargetKind = "single"
    separator: str = ","
    """Between the classes of a text in a cell, where it may have several."""

    def resolve(self, values: Mapping[str, Any]) -> "Columns":
        """Return the names that a file's first row has.

        Raises:
            FieldError: there is no column for the text or the label.
        """
        return replace(
            self,
            text=_find(values, self.text, TEXT_NAMES, option="--text-column"),
            second=self.second or next((name for name in SECOND_NAMES if name in values), None),
            label=_find(
                values, self.label, NUMBER_NAMES if self.kind == "value" else LABEL_NAMES, option="--label-column"
            ),
        )

    def resolve_words(self, values: Mapping[str, Any]) -> "Columns":
        """Return the names of tagged words and their tags that a file's first record has.

        Raises:
            FieldError: there is no column for one of them.
        """
        return replace(
            self,
            text=_find(values, self.text, WORDS_NAMES, option="--text-column"),
            label=_find(values, self.label, TAGS_NAMES, option="--label-column"),
        )


def _find(values: Mapping[str, Any], given: str | None, usual: tuple[str, ...], *, option: str) -> str:
    names = usual if given is None else (given,)
    found = next((name for name in names if name in values), None)
    if found is None:
        fix = f"Set {option} to one of {', '.join(values)}."
        raise FieldError(names[0], "there is no such column", fix=fix)
    return found


def parse_labelled_text(values: Mapping[str, Any], *, columns: Columns) -> LabelledText:
    """Read a row of a table.

    Args:
        columns: resolved.
    Raises:
        FieldError: it is malformed.
    """
    assert columns.text is not None and columns.label is not None, "columns are not resolved"
    text = _take_text(values, columns.text)
    second = None if columns.second is None else _take_text(values, columns.second)
    label = values.get(columns.label)
    if columns.kind == "value":
        return LabelledText(text=text, second=second, value=_take_number(label, name=columns.label))
    if columns.kind == "single":
        return LabelledText(text=text, second=second, labels=(_take_class(label, name=columns.label),))
    return LabelledText(
        text=text, second=second, labels=take_classes(label, name=columns.label, separator=columns.separator)
    )


def parse_tagged_words(values: Mapping[str, Any], *, columns: Columns) -> TaggedWords:
    """Read {"tokens": [...], "tags": [...]}.

    Raises:
        FieldError: it is malformed.
    """
    found = columns.resolve_words(values)
    words_name, tags_name = str(found.text), str(found.label)
    words, tags = (_take_texts(values, name) for name in (words_name, tags_name))
    if len(words) != len(tags):
        message = f"must have a tag for each of the {len(words)} words"
        raise FieldError(tags_name, message, fix="Write as many tags as words.", value=f"{len(tags)} tags")
    previous = _OUTSIDE
    for number, tag in enumerate(tags):
        if problem := find_tag_problem(tag, previous=previous):
            raise FieldError(f"{tags_name}[{number}]", problem, fix="Begin each entity with B-.", value=tag)
        previous = tag
    return TaggedWords(words=words, tags=tags)


def find_tag_problem(tag: str, *, previous: str) -> str:
    """Return why a tag may not follow another one under the BIO scheme; empty if it may."""
    if tag.startswith("I-") and previous not in (tag, f"B-{tag[2:]}"):
        return f"continues an entity that no B-{tag[2:]} began, after {previous}"
    return ""


def _take_text(values: Mapping[str, Any], name: str) -> str:
    value = values.get(name)
    if not isinstance(value, str):
        raise FieldError(name, "is missing" if value is None else "must be a text", fix="Write a text.", value=value)
    return value


def _take_number(value: Any, *, name: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number) or isinstance(value, bool):
        raise FieldError(name, "must be a finite number", fix="Write a number such as 3.5.", value=value)
    return number


def _take_class(value: Any, *, name: str) -> str:
    if isinstance(value, bool | int):
        return str(int(value))
    if not isinstance(value, str) or not value.strip():
        message = "is missing" if value is None or value == "" else "must be the name of a class"
        raise FieldError(name, message, fix="Write the class as a text or a whole number.", value=value)
    return value.strip()


def take_classes(value: Any, *, name: str, separator: str) -> tuple[str, ...]:
    """Return the classes of a text that may have several, or none: of a list, a JSON list, or a text with separators.

    Args:
        value: of the field.
        name: of the field.
    Raises:
        FieldError: it is malformed.
    """
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = parse_json(value)
        except ValueError as error:
            fix = f"Write classes separated by {separator!r}."
            raise FieldError(name, f"must be a JSON list: {error}", fix=fix, value=value) from error
    if value is not None and not isinstance(value, str | int | list):
        fix = f"Write a list of classes, or a text with classes separated by {separator!r}."
        raise FieldError(name, "must be a list of classes", fix=fix, value=value)
    parts = value if isinstance(value, list) else [] if value in (None, "") else str(value).split(separator)
    return tuple(sorted({_take_class(part, name=name) for part in parts}))


def _take_texts(values: Mapping[str, Any], name: str) -> tuple[str, ...]:
    found = values[name]
    if not isinstance(found, list) or not all(isinstance(item, str | int) for item in found):
        raise FieldError(name, "must be a list of texts", fix='Write ["...", ...].', value=found)
    return tuple(map(str, found))
