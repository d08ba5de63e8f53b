"""What is known of each input file while it is read: which batches of it are done, and whether it was read to its end.

Every result goes into a journal as soon as it is there, under the key of its file, so that a later run of the stage
starts with it. What a journal says of other files, or of a file that has changed since, is left alone.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from data_tools.journal import read_journals
from data_tools.ledger import Example, FileLedger, Ledger
from data_tools.line_duplicates import LINES_NAME
from data_tools.near_duplicates import KEYS_NAME
from data_tools.reading import BatchResult, FileResult
from data_tools.sources import InputFile
from data_tools.spool import DOCUMENTS_NAME, OUTCOMES_NAME, holds_place
from data_tools.workers import PreparationError


class ReadEntry(NamedTuple):
    """A line of a reading journal."""

    file_key: str
    result: BatchResult | FileResult


class BadRecordError(PreparationError):
    """A record cannot be read, and strict=true."""


@dataclass(kw_only=True)
class FileState:
    """What has come back of one file."""

    file: InputFile
    is_strict: bool = False
    """Whether a record that cannot be read is an error."""
    results: dict[int, BatchResult] = field(default_factory=dict)
    """Batch number -> result."""
    end: FileResult | None = None
    """Says how many batches there are."""
    bytes_read: int = 0
    num_offered: int = 0
    """Batches that its reader has cut so far."""
    is_at_batch: bool = False
    """Whether its reader goes through the last of them itself."""
    too_slow: set[int] = field(default_factory=set)
    """Records for which a process was ended."""
    taken: set[int] = field(default_factory=set)
    """Numbers of the batches that were gone through, or are in the hands of this process or another worker."""

    @property
    def is_finished(self) -> bool:
        """Whether nothing is left to do."""
        return self.end is not None and len(self.results) == self.end.num_batches

    def add(self, result: BatchResult | FileResult) -> None:
        """Take a result, in any order.

        Raises:
            BadRecordError: it holds a record that could not be read, and `is_strict`.
        """
        self.check(result.ledger.first_failure())
        if isinstance(result, FileResult):
            self.end = result
        else:
            self.results[result.header.number] = result
            self.taken.add(result.header.number)

    def check(self, failure: Example | None) -> None:
        """Raise `BadRecordError` for a record that could not be read when `is_strict`."""
        if self.is_strict and failure is not None:
            what = " ".join(part for part in (failure.name, f"{failure.reason}:", failure.detail) if part)
            raise BadRecordError(
                f"{self.file.path}: record {failure.record} {what.rstrip(': ')}; repair or remove it, or let it be"
                " counted and left out with data_prep.strict=false"
            )

    def build_ledger(self) -> FileLedger:
        """Add up what was counted; in order, so that the first examples are the same each time."""
        assert self.end is not None
        counts = Ledger()
        for number in range(self.end.num_batches):
            counts.add(self.results[number].ledger)
        counts.add(self.end.ledger)
        return FileLedger(source=self.file.source.name, path=self.file.path, bytes=self.file.bytes, counts=counts)


def load_states(
    files: Iterable[InputFile], directory: Path, *, file_keys: dict[int, str], is_strict: bool
) -> list[FileState]:
    """Take up what earlier runs of the stage have done.

    Args:
        directory: of the stage.
        file_keys: index of each file -> its key.
    """
    states = {file_keys[file.index]: FileState(file=file, is_strict=is_strict) for file in files}
    for entry in read_journals(directory):
        state = states.get(entry.file_key)
        if state is not None and _is_there(entry.result, directory):
            state.add(entry.result)
    for state in states.values():
        if state.end is not None and state.is_finished:
            state.bytes_read = state.end.bytes_read
    return list(states.values())


def _is_there(result: BatchResult | FileResult, directory: Path) -> bool:
    places = [(place, OUTCOMES_NAME) for place in result.outcomes]
    if isinstance(result, BatchResult):
        places += [(place, OUTCOMES_NAME) for place in result.header.outcomes]
        places += [(result.place, DOCUMENTS_NAME)]
        places += [(result.keys_place, KEYS_NAME)] if result.keys_place else []
        places += [(result.lines_place, LINES_NAME)] if result.lines_place else []
    return all(holds_place(directory, place, name=name) for place, name in places)
