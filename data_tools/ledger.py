"""The ledger: for every input file, read = kept + dropped by reason + failed by error, to the record."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Required, TypedDict, Unpack

from trireme.errors import Violation

LEDGER_VERSION = 1
MAX_EXAMPLES = 5
"""Records named for each reason and file."""
MAX_DETAIL_CHARACTERS = 200
MAX_NAME_CHARACTERS = 4096
SUBJECT_MARK = ": "
"""Stands in a note between what is noted and of what, such as a template's name."""
MAX_SUBJECTS = 50
"""Of a note, shown for each file; the others are added up."""
OTHER_SUBJECTS = "(others)"


@dataclass(frozen=True, kw_only=True)
class Example:
    """One record that was not kept, so that a person can look at it."""

    reason: str
    record: int
    name: str
    detail: str


class Origin(TypedDict, total=False):
    """What the ledger is told of a record that is left out."""

    record: Required[int]
    name: str
    """What a person would look it up by."""
    detail: str
    id: str
    url: str
    title: str
    language: str


class DroppedRecord(NamedTuple):
    """A record that was not kept, for the table of all records."""

    record: int
    is_failed: bool
    reason: str
    detail: str
    id: str
    url: str
    title: str
    language: str = ""


@dataclass
class Ledger:
    """Counts of one file, or of a part of it; parts add up with `add`."""

    read: int = 0
    kept: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    notes: Counter[str] = field(default_factory=Counter)
    """What was peculiar about records; says nothing about whether they were kept."""
    examples: list[Example] = field(default_factory=list)
    outcomes: list[DroppedRecord] = field(default_factory=list)
    """Every record that was dropped or failed, until somebody takes them away; no part of the counts."""

    def drop(self, reason: str, **origin: Unpack[Origin]) -> None:
        """Count a record that is left out on purpose."""
        self.dropped[reason] += 1
        self._leave_out(reason, is_failed=False, count=self.dropped[reason], **origin)

    def fail(self, error: str, **origin: Unpack[Origin]) -> None:
        """Count a record that could not be read."""
        self.failed[error] += 1
        self._leave_out(error, is_failed=True, count=self.failed[error], **origin)

    def note(self, what: str, count: int = 1) -> None:
        """Count a peculiarity."""
        self.notes[what] += count

    def add(self, other: "Ledger") -> None:
        """Add the counts of a later part of the same file."""
        self.read += other.read
        self.kept += other.kept
        self.dropped += other.dropped
        self.failed += other.failed
        self.notes += other.notes
        for example in other.examples:
            if sum(example.reason == mine.reason for mine in self.examples) < MAX_EXAMPLES:
                self.examples.append(example)

    @property
    def accounted(self) -> int:
        """Records whose fate is known."""
        return self.kept + self.dropped.total() + self.failed.total()

    def to_dict(self) -> dict[str, Any]:
        """Plain values, in an order that does not depend on how the counting was shared out."""
        examples = sorted(self.examples, key=lambda example: (example.reason, example.record))
        return {
            "read": self.read,
            "kept": self.kept,
            "dropped": dict(sorted(self.dropped.items())),
            "failed": dict(sorted(self.failed.items())),
            "notes": _add_up_rare_subjects(self.notes),
            "examples": [vars(example) for example in examples],
        }

    def first_failure(self) -> Example | None:
        """The first record that could not be read."""
        return next((example for example in self.examples if example.reason in self.failed), None)

    def _leave_out(
        self,
        reason: str,
        *,
        is_failed: bool,
        count: int,
        record: int,
        name: str = "",
        detail: str = "",
        id: str = "",
        url: str = "",
        title: str = "",
        language: str = "",
    ) -> None:
        shown = _cut(detail, MAX_DETAIL_CHARACTERS)
        if count <= MAX_EXAMPLES:
            self.examples.append(Example(reason=reason, record=record, name=name, detail=shown))
        self.outcomes.append(
            DroppedRecord(record, is_failed, reason, shown, _cut(id), _cut(url), _cut(title), language)
        )


def _add_up_rare_subjects(notes: Counter[str]) -> dict[str, int]:
    """All notes in order, of each that has subjects the most frequent ones: pages may name any number of them."""
    shown: Counter[str] = Counter()
    num_subjects: Counter[str] = Counter()
    for name, count in sorted(notes.items(), key=lambda item: (-item[1], item[0])):
        what, mark, _ = name.partition(SUBJECT_MARK)
        num_subjects[what] += bool(mark)
        is_rare = mark and num_subjects[what] > MAX_SUBJECTS
        shown[f"{what}{mark}{OTHER_SUBJECTS}" if is_rare else name] += count
    return dict(sorted(shown.items()))


def _cut(text: str, max_characters: int = MAX_NAME_CHARACTERS) -> str:
    """The beginning of a text, in characters that UTF-8 can write."""
    return text[:max_characters].encode("utf-8", "replace").decode()


@dataclass(frozen=True, kw_only=True)
class FileLedger:
    """The ledger of one input file."""

    source: str
    path: str
    bytes: int | None
    counts: Ledger

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {"source": self.source, "path": self.path, "bytes": self.bytes, **self.counts.to_dict()}


def sum_ledgers(files: list[FileLedger]) -> Ledger:
    """Add up the counts of all files, without examples."""
    total = Ledger()
    for file in files:
        total.add(file.counts)
    total.examples.clear()
    return total


def ledger_to_dict(files: list[FileLedger]) -> dict[str, Any]:
    """The whole ledger as plain values."""
    totals = sum_ledgers(files).to_dict()
    totals.pop("examples")
    return {"version": LEDGER_VERSION, "files": [file.to_dict() for file in files], "totals": totals}


def find_discrepancies(files: list[FileLedger]) -> list[Violation]:
    """Name every file whose records are not all accounted for; that would be an error of this program."""
    return [
        Violation(
            path=f"ledger of {file.path}",
            value=f"{file.counts.read} read",
            message=f"is not {file.counts.kept} kept + {file.counts.dropped.total()} dropped + "
            f"{file.counts.failed.total()} failed",
            fix="nothing was written; report this as an error of data_tools, with the input file",
        )
        for file in files
        if file.counts.read != file.counts.accounted
    ]
