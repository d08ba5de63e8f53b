"""Read multiple-choice items.

A file has one JSON object a line: `context`, `choices`, `answer` (number of the right choice, from 0), and `delimiter`
(between context and choice; a space if it is missing).
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trireme.errors import ConfigError, Violation

FOLDER = Path(__file__).with_name("tasks")
"""Tasks that come with this project: NAME.jsonl, and NAME.yaml for the harness."""


@dataclass(frozen=True, kw_only=True)
class Item:
    """Hold a question: which of the choices continues the context?"""

    context: str
    choices: tuple[str, ...]
    answer: int
    """Number of the right choice."""
    delimiter: str = " "


def shipped_tasks() -> list[str]:
    """Return the names of the tasks that come with this project."""
    return sorted(path.stem for path in FOLDER.glob("*.jsonl"))


def find_task(task: str) -> Path:
    """Return the file of a task: one that comes with this project, or a path."""
    return FOLDER / f"{task}.jsonl" if task in shipped_tasks() else Path(task).expanduser()


def check_task(task: str, *, path: str) -> list[Violation]:
    """Report a task that is neither a name nor a file of items."""
    if not find_task(task).is_file():
        message = f"is neither a task of the suite ({', '.join(shipped_tasks())}) nor a file"
        fix = "Name a task of the suite, or a file of items (docs/inference/evaluation.md)."
        return [Violation(path=path, value=task, message=message, fix=fix)]
    try:
        read_items(task)
    except ConfigError as error:
        return list(error.violations)
    return []


def read_items(task: str) -> list[Item]:
    """Read all items of a task.

    Args:
        task: a name of `shipped_tasks`, or a path.
    Raises:
        ConfigError: the file cannot be read, a line is no item, or there is none.
    """
    path = find_task(task)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise _refusal(path, "", f"cannot be read: {error}") from error
    items = [_parse(line, path=path, number=number) for number, line in enumerate(lines, start=1) if line.strip()]
    if not items:
        raise _refusal(path, "", "contains no item")
    return items


def _parse(line: str, *, path: Path, number: int) -> Item:
    place = f"{path}, line {number}"
    try:
        value: Any = json.loads(line)
    except ValueError as error:
        raise _refusal(place, "", f"is no JSON: {error}") from error
    if not isinstance(value, dict):
        raise _refusal(place, value, "must be an object with context, choices and answer")
    context, choices, answer = (value.get(name) for name in ("context", "choices", "answer"))
    delimiter = value.get("delimiter", " ")
    if not isinstance(context, str) or not context.strip():
        raise _refusal(f"{place}: context", context, "must be a text that is not empty")
    if not isinstance(choices, list) or len(choices) < 2 or not all(isinstance(one, str) and one for one in choices):
        raise _refusal(f"{place}: choices", choices, "must be at least two texts that are not empty")
    if not isinstance(answer, int) or isinstance(answer, bool) or not 0 <= answer < len(choices):
        raise _refusal(f"{place}: answer", answer, f"must be an integer from 0 to {len(choices) - 1}")
    if not isinstance(delimiter, str):
        raise _refusal(f"{place}: delimiter", delimiter, "must be a text")
    return Item(context=context, choices=tuple(choices), answer=answer, delimiter=delimiter)


def _refusal(path: str | Path, value: Any, message: str) -> ConfigError:
    return ConfigError([Violation(path=str(path), value=value, message=message, fix="Correct the file.")])
