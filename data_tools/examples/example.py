"""Hold examples as they were read, and say where a file is malformed."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from trireme.errors import Violation
from trireme.strict_json import to_json

Messages = Sequence[Mapping[str, Any]]
MAX_SHOWN = 80
"""Characters of a value in a message."""


@dataclass(frozen=True, kw_only=True)
class Conversation:
    """Hold messages with role and content; the assistant's are learned."""

    messages: Messages

    @property
    def key(self) -> Any:
        """Return what decides whether an example is for training or validation: equal keys stay together."""
        return [(message["role"], message.get("content")) for message in self.messages]


@dataclass(frozen=True, kw_only=True)
class Completion:
    """Hold a prompt and its completion, both plain text."""

    prompt: str
    completion: str

    @property
    def key(self) -> Any:
        """Return as Conversation."""
        return self.prompt, self.completion


@dataclass(frozen=True, kw_only=True)
class Preference:
    """Hold a prompt, and two answers to it: texts or messages."""

    prompt: str | Messages
    chosen: str | Messages
    rejected: str | Messages

    @property
    def key(self) -> Any:
        """Return as Conversation: all answers to one prompt stay together."""
        return self.prompt


@dataclass(frozen=True, kw_only=True)
class LabelledText:
    """Hold a text, or two, with its classes by name, or with a number."""

    text: str
    second: str | None
    labels: tuple[str, ...] = ()
    value: float | None = None

    @property
    def key(self) -> Any:
        """Return as Conversation."""
        return self.text, self.second


@dataclass(frozen=True, kw_only=True)
class TaggedWords:
    """Hold the words of a sentence with a tag each, such as B-PER, I-PER, O."""

    words: tuple[str, ...]
    tags: tuple[str, ...]

    @property
    def key(self) -> Any:
        """Return as Conversation."""
        return self.words


@dataclass(frozen=True, kw_only=True)
class Question:
    """Hold a question to a text, with answers that are passages of it; none where the text has no answer."""

    id: str
    question: str
    context: str
    answers: tuple[tuple[int, str], ...]
    """(offset in characters, text) of each."""

    @property
    def key(self) -> Any:
        """Return as Conversation: all questions to one text stay together."""
        return self.context


Example = Conversation | Completion | Preference | LabelledText | TaggedWords | Question


@dataclass(frozen=True, kw_only=True)
class ReadExample:
    """Hold an example and its place."""

    line: int
    """From 1; of the row, in a Parquet file."""
    example: Example


@dataclass(frozen=True, kw_only=True)
class BadLine:
    """Describe a malformed part of a file."""

    line: int
    """From 1; 0 for the whole file."""
    field: str
    """Name of the field or column; empty for the whole line."""
    message: str
    fix: str
    value: Any = ""

    def violation(self, file: str) -> Violation:
        """Return the error, with its place."""
        place = f"{file}, line {self.line}" if self.line else file
        return Violation(
            path=f"{place}, field {self.field}" if self.field else place,
            value=_shorten(self.value),
            message=self.message,
            fix=self.fix,
        )


class FieldError(Exception):
    """Report a field of a record that is not as its format demands."""

    def __init__(self, field: str, message: str, *, fix: str, value: Any = "") -> None:
        super().__init__(message)
        self.field, self.message, self.fix, self.value = field, message, fix, value

    def at(self, line: int) -> BadLine:
        """Return the error at a line."""
        return BadLine(line=line, field=self.field, message=self.message, fix=self.fix, value=self.value)


def to_record(example: Example) -> dict[str, Any]:
    """Return an example's fields, for the file of rejected examples."""
    return asdict(example)


def _shorten(value: Any) -> str:
    text = value if isinstance(value, str) else to_json(value)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."
