"""Read questions in the format of SQuAD 1.1 and 2.0: articles, their paragraphs, and questions with answers in them."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from data_tools.examples.example import BadLine, FieldError, Question, ReadExample
from data_tools.examples.rows import open_binary
from trireme.json_values import parse_json

_FIX = (
    'Write {"data": [{"paragraphs": [{"context": "...", "qas": [{"id": "...", "question": "...", "answers": []}]}]}]}.'
)


def read_squad(path: Path) -> Iterator[ReadExample | BadLine]:
    """Yield the questions of a file, and those that are malformed, such as with an answer that is not at its offset.

    The file is read whole. The line of a question is that of its `id` in the file.

    Raises:
        OSError: it cannot be read.
    """
    with open_binary(path) as stream:
        raw = stream.read()
    try:
        text = raw.decode("utf-8-sig")
        content = parse_json(text)
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        fix = "Convert the file, such as with `iconv -f ENCODING -t UTF-8`."
        yield BadLine(line=line, field="", message=f"must be UTF-8: byte {error.start}", fix=fix)
        return
    except ValueError as error:
        line = getattr(error, "lineno", 0)
        yield BadLine(line=line, field="", message=f"must be JSON: {error}", fix=_FIX)
        return
    lines = _Lines(text)
    num_questions = 0
    try:
        for place, paragraph in _list_paragraphs(content):
            try:
                context = _take(paragraph, "context", str, prefix=f"{place}.")
                questions = _take(paragraph, "qas", list, prefix=f"{place}.")
            except FieldError as error:
                yield error.at(lines.find(paragraph))
                continue
            for number, entry in enumerate(questions):
                num_questions += 1
                line = lines.find(entry)
                try:
                    yield ReadExample(
                        line=line, example=_parse(entry, context=context, prefix=f"{place}.qas[{number}].")
                    )
                except FieldError as error:
                    yield error.at(line)
    except FieldError as error:
        yield error.at(0)
        return
    if not num_questions:
        yield BadLine(line=0, field="", message="contains no questions", fix=_FIX)


def _list_paragraphs(content: Any) -> Iterator[tuple[str, Any]]:
    for article_number, article in enumerate(_take(content, "data", list)):
        prefix = f"data[{article_number}]."
        for number, paragraph in enumerate(_take(article, "paragraphs", list, prefix=prefix)):
            yield f"{prefix}paragraphs[{number}]", paragraph


def _parse(entry: Any, *, context: str, prefix: str) -> Question:
    id_ = str(entry.get("id", "")) if isinstance(entry, Mapping) else ""
    question = _take(entry, "question", str, prefix=prefix)
    answers = [] if entry.get("is_impossible") else _take(entry, "answers", list, prefix=prefix)
    found = []
    for number, answer in enumerate(answers):
        place = f"{prefix}answers[{number}]."
        text, start = _take(answer, "text", str, prefix=place), _take(answer, "answer_start", int, prefix=place)
        if not text or context[start : start + len(text)] != text or start < 0:
            at = context[max(0, start) : max(0, start) + len(text)]
            message = f"the context has {at!r} there, and the answer is {text!r}"
            fix = "Write the offset in characters of the answer's first character in the context, from 0."
            raise FieldError(f"{place}answer_start", message, fix=fix, value=start)
        found.append((start, text))
    return Question(id=id_, question=question, context=context, answers=tuple(found))


class _Lines:
    """Find the lines of objects by their ids, in the order of the file."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._place = self._counted = 0
        self._line = 1

    def find(self, entry: Any) -> int:
        """Return the line where the object's id, question or context is; that of the one before if it is not found."""
        for name in ("id", "question", "context"):
            value = entry.get(name) if isinstance(entry, Mapping) else None
            if not isinstance(value, str):
                continue
            for spelling in (json.dumps(value, ensure_ascii=False), json.dumps(value)):
                place = self._text.find(spelling, self._place)
                if place >= 0:
                    self._line += self._text.count("\n", self._counted, place)
                    self._counted = self._place = place
                    return self._line
        return self._line


_NAMES = {str: "a text", list: "a list", int: "a whole number"}


def _take(values: Any, name: str, kind: type, *, prefix: str = "") -> Any:
    if not isinstance(values, Mapping):
        raise FieldError(prefix.rstrip(".") or "data", "must be an object", fix=_FIX, value=values)
    value = values.get(name)
    if not isinstance(value, kind) or isinstance(value, bool):
        message = "is missing" if value is None else f"must be {_NAMES[kind]}"
        raise FieldError(f"{prefix}{name}", message, fix=_FIX, value="" if value is None else value)
    return value
