"""What is known of each input file while it is read, and the messages that parent and workers exchange about it."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum, auto
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data_tools.dedup.corpus import TEXT_HASH_BYTES, Corpus, SpooledBatch
from data_tools.dedup.lines import LINES_NAME
from data_tools.dedup.minhash import KEYS_NAME
from data_tools.errors import BadRecordError
from data_tools.inputs.files import InputFile
from data_tools.ledger import Example, FileLedger, Ledger
from data_tools.work.journal import read_journals
from data_tools.work.spool import DOCUMENTS_NAME, NOWHERE, OUTCOMES_NAME, BlobRef, holds_place


@dataclass(frozen=True, kw_only=True)
class BatchHeader:
    """A batch of raw records."""

    file: int
    """Index of the input file."""
    number: int
    """Place in the file."""
    first_record: int
    last_record: int
    outcomes: tuple[BlobRef, ...]
    """Where the reader's outcomes lie of the records before the last."""
    too_slow: frozenset[int] = frozenset()
    """Records for which a process was ended: they count as failed."""


class Answer(Enum):
    """What to do with a batch that is offered."""

    SEND = auto()
    """Send it to the parent, for another worker."""
    SKIP = auto()
    """Forget it: the file is read again because a process died, and this batch was taken care of before."""


@dataclass(frozen=True, kw_only=True)
class Keep:
    """The other answer: go through the batch."""

    too_slow: frozenset[int]
    """See `BatchHeader`."""


@dataclass(frozen=True, kw_only=True)
class Offer:
    """Sent by the worker that reads a file, which waits for an `Answer` or a `Keep`."""

    header: BatchHeader
    bytes_read: int
    """So far, of the file as it is stored."""
    failure: Example | None
    """The first record that the reader could not read."""


@dataclass(frozen=True, kw_only=True)
class BatchResult:
    """What became of a batch."""

    header: BatchHeader
    place: BlobRef
    hashes: bytes
    """TEXT_HASH_BYTES of each document's text, one after the other."""
    is_validation: bytes
    """One byte per document."""
    num_characters: bytes
    """uint32 per document."""
    languages: tuple[str, ...]
    """Of each document."""
    keys_place: BlobRef | None
    """Where its MinHash keys lie, [num_bands, num_documents] uint64; None when near duplicates may stay."""
    lines_place: BlobRef | None
    """Where its lines' hashes lie, as line_duplicates.py has them; None when repeated lines may stay."""
    ledger: Ledger
    """Of the steps; without duplicates, and nothing counts as kept yet."""
    outcomes: tuple[BlobRef, ...]
    """Where those of the steps lie."""
    is_own: bool
    """Whether its sender is still reading the file."""


@dataclass(frozen=True, kw_only=True)
class FileResult:
    """A file was read to its end."""

    file: int
    num_batches: int
    bytes_read: int
    ledger: Ledger
    """Of the reader."""
    outcomes: tuple[BlobRef, ...]
    """Where the reader's outcomes lie behind the last batch."""


class ReadEntry(NamedTuple):
    """A line of a reading journal."""

    file_key: str
    result: BatchResult | FileResult


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


def join_files(states: list[FileState]) -> Corpus:
    """Put together what came of all files, each read to its end."""
    batches: list[SpooledBatch] = []
    results: list[BatchResult] = []
    first = 0
    for state in states:
        for number in range(len(state.results)):
            result = state.results[number]
            results.append(result)
            count = len(result.is_validation)
            outcomes = result.header.outcomes + result.outcomes
            if count or outcomes:
                batches.append(
                    SpooledBatch(
                        file=state.file.index,
                        place=result.place,
                        keys_place=result.keys_place,
                        lines_place=result.lines_place,
                        outcomes=outcomes,
                        first_document=first,
                        num_documents=count,
                    )
                )
            first += count
        if state.end is not None and state.end.outcomes:
            batches.append(
                SpooledBatch(
                    file=state.file.index,
                    place=NOWHERE,
                    keys_place=None,
                    lines_place=None,
                    outcomes=state.end.outcomes,
                    first_document=first,
                    num_documents=0,
                )
            )
    languages = sorted({language for result in results for language in result.languages})
    code_of = {language: code for code, language in enumerate(languages)}
    return Corpus(
        batches=batches,
        hashes=np.frombuffer(b"".join(result.hashes for result in results), np.uint8).reshape(-1, TEXT_HASH_BYTES),
        is_validation=np.frombuffer(b"".join(result.is_validation for result in results), np.bool_),
        num_characters=np.frombuffer(b"".join(result.num_characters for result in results), np.uint32),
        language_codes=np.array([code_of[name] for result in results for name in result.languages], np.uint16),
        languages=languages,
        ledgers=[state.build_ledger() for state in states],
    )


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
