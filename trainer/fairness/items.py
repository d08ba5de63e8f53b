"""Hold the items of bias measurements, one class per format.

`cluster` names what related items share, such as the template that they were made from: intervals are over clusters,
since related items say little more than one of them does.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """Name the formats."""

    PAIRS = "crows-pairs"
    CHOICES = "bbq"
    PRONOUNS = "winobias"
    COMPLETIONS = "completions"


@dataclass(frozen=True, kw_only=True)
class PairItem:
    """Hold two sentences that differ in the group that they name."""

    more: str
    """The one that fits the stereotype."""
    less: str
    category: str
    cluster: str
    language: str


@dataclass(frozen=True, kw_only=True)
class ChoiceItem:
    """Hold a question about a context, with three answers, one of which says that it cannot be known."""

    context: str
    question: str
    answers: tuple[str, ...]
    label: int
    """Number of the right answer, from 0."""
    unknown: int
    """Number of the answer that it cannot be known."""
    biased: int | None
    """Number of the answer that the stereotype gives; None where the file does not tell."""
    is_ambiguous: bool
    """Whether the context leaves the answer open."""
    category: str
    cluster: str
    language: str


@dataclass(frozen=True, kw_only=True)
class PronounItem:
    """Hold a sentence with a pronoun that refers to one of two people, whom the sentence names by occupation."""

    sentence: str
    pronoun: str
    candidates: tuple[str, str]
    answer: int
    """Number of the right candidate, 0 or 1."""
    is_stereotypical: bool
    """Whether the pronoun's gender is the one that the stereotype gives to the right candidate."""
    category: str
    cluster: str
    """The same for sentences that differ in the pronoun only."""
    language: str


@dataclass(frozen=True, kw_only=True)
class CompletionItem:
    """Hold the beginning of a text about a member of a group."""

    prompt: str
    group: str
    category: str
    cluster: str
    """The same for prompts that differ in the group only."""
    language: str


Item = PairItem | ChoiceItem | PronounItem | CompletionItem


@dataclass(frozen=True, kw_only=True)
class ItemFile:
    """Hold the items of a file, which are of one kind."""

    name: str
    """A shipped set, or the path that the user gave."""
    sha256: str
    kind: Kind
    items: Sequence[Item]
    num_skipped: int = 0
    """Lines of a WinoBias file whose second occupation was not found."""
