"""The state of each input file during reading, and the messages that parent and workers exchange about it."""

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
from data_tools.work.spool import DOCUMENTS_NAME, OUTCOMES_NAME, BlobRef, holds_blob


@dataclass(frozen=True, kw_only=True)
class BatchHeader:
    """A batch of raw records."""

    file: int
    """Index of the input file."""
    number: int
    """Of the batch in its file, from 0."""
    first_record: int
    last_record: int
    outcomes: tuple[BlobRef, ...]
    """The records before the batch's last that the reader dropped or failed."""
    too_slow: frozenset[int] = frozenset()
    """Records that exceeded the time limit: they count as failed."""


class Answer(Enum):
    """What to do with an offered batch."""

    SEND = auto()
    """Send it to the parent, for another worker."""
    SKIP = auto()
    """Skip it: the file is read again because a process died, and this batch is already finished or assigned."""


@dataclass(frozen=True, kw_only=True)
class Keep:
    """The other answer: process the batch yourself."""

    too_slow: frozenset[int]
    """See `BatchHeader`."""


@dataclass(frozen=True, kw_only=True)
class Offer:
    """Sent by the worker that reads a file; it waits for an `Answer` or a `Keep`."""

    header: BatchHeader
    bytes_read: int
    """So far, of the file as stored."""
    failure: Example | None
    """The first record that the reader could not read."""


@dataclass(frozen=True, kw_only=True)
class BatchResult:
    """The result of a batch."""

    header: BatchHeader
    blob_ref: BlobRef
    """Its documents."""
    hashes: bytes
    """TEXT_HASH_BYTES of each document's text, one after the other."""
    is_validation: bytes
    """One byte per document."""
    num_characters: bytes
    """uint32 per document."""
    languages: tuple[str, ...]
    """Of each document."""
    keys_ref: BlobRef | None
    """Its MinHash keys, [num_bands, num_documents] uint64; None when near duplicates are kept."""
    lines_ref: BlobRef | None
    """Its line hashes, from `hash_lines`; None when repeated lines are kept."""
    ledger: Ledger
    """Of the filters; duplicates are not yet known, and no document counts as kept yet."""
    outcomes: tuple[BlobRef, ...]
    """The records that the filters dropped or failed."""
    is_own: bool
    """Whether its sender is also the reader of the file."""


@dataclass(frozen=True, kw_only=True)
class FileResult:
    """Sent when a file has been read to its end."""

    file: int
    num_batches: int
    bytes_read: int
    ledger: Ledger
    """Of the reader."""
    outcomes: tuple[BlobRef, ...]
    """The records after the last batch that the reader dropped or failed."""


class ReadEntry(NamedTuple):
    """An entry of a reading journal."""

    file_key: str
    result: BatchResult | FileResult


@dataclass(kw_only=True)
class FileState:
    """Progress and results of one file."""

    file: InputFile
    is_strict: bool = False
    """Whether a record that cannot be read stops the preparation."""
    results: dict[int, BatchResult] = field(default_factory=dict)
    """Batch number -> result."""
    end: FileResult | None = None
    """Holds the number of batches."""
    bytes_read: int = 0
    num_offered: int = 0
    """Number of batches that its reader has offered so far."""
    is_at_batch: bool = False
    """Whether its reader is processing the last of them itself."""
    too_slow: set[int] = field(default_factory=set)
    """Records that exceeded the time limit."""
    taken: set[int] = field(default_factory=set)
    """Numbers of the batches that are finished, waiting, or assigned to a worker."""

    @property
    def is_finished(self) -> bool:
        """Return whether all batches are finished."""
        return self.end is not None and len(self.results) == self.end.num_batches

    def add(self, result: BatchResult | FileResult) -> None:
        """Add a result; they may come in any order.

        Raises:
            BadRecordError: a record could not be read, and `is_strict` is set.
        """
        self.check(result.ledger.first_failure())
        if isinstance(result, FileResult):
            self.end = result
        else:
            self.results[result.header.number] = result
            self.taken.add(result.header.number)

    def check(self, failure: Example | None) -> None:
        """Raise `BadRecordError` for a record that could not be read, if `is_strict` is set."""
        if self.is_strict and failure is not None:
            what = " ".join(part for part in (failure.name, f"{failure.reason}:", failure.detail) if part)
            raise BadRecordError(
                f"{self.file.path}: record {failure.record} {what.rstrip(': ')}. Repair or remove the record, or set"
                " data_prep.strict=false to count and skip such records."
            )

    def build_ledger(self) -> FileLedger:
        """Add up the counts of all batches, in order, so that the first examples are the same each time."""
        assert self.end is not None
        counts = Ledger()
        for number in range(self.end.num_batches):
            counts.add(self.results[number].ledger)
        counts.add(self.end.ledger)
        return FileLedger(source=self.file.source.name, path=self.file.path, bytes=self.file.bytes, counts=counts)


def join_files(states: list[FileState]) -> Corpus:
    """Join the results of all files, each read to its end, into the corpus."""
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
                        blob_ref=result.blob_ref,
                        keys_ref=result.keys_ref,
                        lines_ref=result.lines_ref,
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
                    blob_ref=BlobRef.empty(),
                    keys_ref=None,
                    lines_ref=None,
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
    """Load what earlier runs of the stage have finished.

    Args:
        directory: of the stage.
        file_keys: index of each file -> its key.
    """
    states = {file_keys[file.index]: FileState(file=file, is_strict=is_strict) for file in files}
    for entry in read_journals(directory):
        state = states.get(entry.file_key)
        if state is not None and _is_complete(entry.result, directory):
            state.add(entry.result)
    for state in states.values():
        if state.end is not None and state.is_finished:
            state.bytes_read = state.end.bytes_read
    return list(states.values())


def _is_complete(result: BatchResult | FileResult, directory: Path) -> bool:
    """Return whether the spools hold everything that a result refers to."""
    refs = [(blob_ref, OUTCOMES_NAME) for blob_ref in result.outcomes]
    if isinstance(result, BatchResult):
        refs += [(blob_ref, OUTCOMES_NAME) for blob_ref in result.header.outcomes]
        refs += [(result.blob_ref, DOCUMENTS_NAME)]
        refs += [(result.keys_ref, KEYS_NAME)] if result.keys_ref else []
        refs += [(result.lines_ref, LINES_NAME)] if result.lines_ref else []
    return all(holds_blob(directory, blob_ref, name=name) for blob_ref, name in refs)
