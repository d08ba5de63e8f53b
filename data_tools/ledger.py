"""The ledger accounts for every record of every input file: read = kept + dropped by reason + failed by reason."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Required, TypedDict, Unpack

from trireme.errors import Violation

LEDGER_VERSION = 1
MAX_EXAMPLES = 5
"""Example records per reason and file."""
MAX_DETAIL_CHARACTERS = 200
MAX_NAME_CHARACTERS = 4096
SUBJECT_MARK = ": "
"""Separates a note from its subject, such as a template's name."""
MAX_SUBJECTS = 50
"""Subjects of a note listed per file; the others are added up."""
OTHER_SUBJECTS = "(others)"


@dataclass(frozen=True, kw_only=True)
class Example:
    """An example of a record that was not kept."""

    reason: str
    record: int
    name: str
    detail: str


class Origin(TypedDict, total=False):
    """The origin of a dropped or failed record."""

    record: Required[int]
    name: str
    """Best name for messages: URL, title or identifier."""
    detail: str
    id: str
    url: str
    title: str
    language: str


class DroppedRecord(NamedTuple):
    """A record that was dropped or failed, for the table of all records."""

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
    """Counts of a file or of a part of it; `add` adds up parts."""

    read: int = 0
    kept: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    notes: Counter[str] = field(default_factory=Counter)
    """Peculiarities of records, whether they were kept or not."""
    examples: list[Example] = field(default_factory=list)
    outcomes: list[DroppedRecord] = field(default_factory=list)
    """Every record that was dropped or failed, until its owner clears the list; not part of the counts."""

    def drop(self, reason: str, **origin: Unpack[Origin]) -> None:
        """Count a record that is dropped on purpose."""
        self.dropped[reason] += 1
        self._record(reason, is_failed=False, count=self.dropped[reason], **origin)

    def fail(self, error: str, **origin: Unpack[Origin]) -> None:
        """Count a record that could not be read."""
        self.failed[error] += 1
        self._record(error, is_failed=True, count=self.failed[error], **origin)

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
        """Return the number of records whose outcome is known."""
        return self.kept + self.dropped.total() + self.failed.total()

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, in an order that does not depend on how the work was distributed."""
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
        """Return the first record that could not be read."""
        return next((example for example in self.examples if example.reason in self.failed), None)

    def _record(
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
    """Sort all notes, and keep the most frequent subjects of each: their number is unbounded."""
    shown: Counter[str] = Counter()
    num_subjects: Counter[str] = Counter()
    for name, count in sorted(notes.items(), key=lambda item: (-item[1], item[0])):
        what, mark, _ = name.partition(SUBJECT_MARK)
        num_subjects[what] += bool(mark)
        is_rare = mark and num_subjects[what] > MAX_SUBJECTS
        shown[f"{what}{mark}{OTHER_SUBJECTS}" if is_rare else name] += count
    return dict(sorted(shown.items()))


def _cut(text: str, max_characters: int = MAX_NAME_CHARACTERS) -> str:
    """Return the beginning of a text, in characters that UTF-8 can encode."""
    return text[:max_characters].encode("utf-8", "replace").decode()


@dataclass(frozen=True, kw_only=True)
class FileLedger:
    """The ledger of one input file."""

    source: str
    path: str
    bytes: int | None
    counts: Ledger

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {"source": self.source, "path": self.path, "bytes": self.bytes, **self.counts.to_dict()}


def sum_ledgers(files: list[FileLedger]) -> Ledger:
    """Add up the counts of all files, without examples."""
    total = Ledger()
    for file in files:
        total.add(file.counts)
    total.examples.clear()
    return total


def ledger_to_dict(files: list[FileLedger]) -> dict[str, Any]:
    """Return the whole ledger as plain values."""
    totals = sum_ledgers(files).to_dict()
    totals.pop("examples")
    return {"version": LEDGER_VERSION, "files": [file.to_dict() for file in files], "totals": totals}


def find_discrepancies(files: list[FileLedger]) -> list[Violation]:
    """List every file whose records are not all accounted for; that would be a bug."""
    return [
        Violation(
            path=f"ledger of {file.path}",
            value=f"{file.counts.read} read",
            message=f"must be {file.counts.kept} kept + {file.counts.dropped.total()} dropped + "
            f"{file.counts.failed.total()} failed",
            fix="This is a bug; nothing was published. Please report it with the input file.",
        )
        for file in files
        if file.counts.read != file.counts.accounted
    ]
