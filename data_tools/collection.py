"""First stage, in the parent: share the input out among workers and collect, in input order, what they kept."""

from collections import deque
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from data_tools.config import DataPrepConfig
from data_tools.decontamination import EvaluationTexts
from data_tools.ledger import FileLedger, Ledger
from data_tools.reading import TEXT_HASH_BYTES, BatchHeader, BatchResult, FileResult, Offer, serve_reading
from data_tools.sources import InputFile
from data_tools.spool import NOWHERE, SpoolPlace
from data_tools.stage_progress import StageProgress
from data_tools.workers import WorkerPool

BATCHES_WAITING_PER_WORKER = 2


@dataclass(frozen=True, kw_only=True)
class SpooledBatch:
    """Documents of one file that follow each other."""

    file: int
    place: SpoolPlace
    keys_place: SpoolPlace | None
    """Where its MinHash keys lie; None when near duplicates may stay."""
    outcomes: tuple[SpoolPlace, ...]
    """Where the outcomes lie of records that were not kept, from behind the batch before to its own last record."""
    first_document: int
    """Number of its first document among all."""
    num_documents: int


@dataclass(frozen=True, kw_only=True)
class Collection:
    """All cleaned documents, in input order: where they lie, and what decides about them."""

    batches: list[SpooledBatch]
    hashes: np.ndarray
    """[n, TEXT_HASH_BYTES] uint8."""
    is_validation: np.ndarray
    """[n] bool."""
    num_characters: np.ndarray
    """[n] uint32."""
    ledgers: list[FileLedger]
    """Per input file; nothing counts as kept yet."""


@dataclass(kw_only=True)
class _FileState:
    """What has come back of one file."""

    file: InputFile
    results: dict[int, BatchResult] = field(default_factory=dict)
    """Batch number -> result."""
    ledger: Ledger = field(default_factory=Ledger)
    num_merged: int = 0
    """Batches whose ledger is added; they are added in order, so that the first examples are the same each time."""
    bytes_read: int = 0
    last_outcomes: tuple[SpoolPlace, ...] = ()
    """Where the outcomes lie of records behind the last batch."""

    def add(self, result: BatchResult) -> None:
        """Take a batch's result, in any order."""
        self.results[result.header.number] = result
        while self.num_merged in self.results:
            self.ledger.add(self.results[self.num_merged].ledger)
            self.num_merged += 1


def collect_documents(
    files: list[InputFile],
    *,
    config: DataPrepConfig,
    evaluations: EvaluationTexts | None,
    directory: Path,
    num_workers: int,
) -> Collection:
    """Read all input and spool the cleaned documents into `directory`.

    Raises:
        PreparationError: a worker died or an input cannot be opened.
    """
    states = [_FileState(file=file) for file in files]
    sizes = [file.bytes for file in files]
    total = None if None in sizes else sum(size or 0 for size in sizes)
    # A file without a known number of batches may still keep every worker busy.
    with (
        StageProgress("read", total=total, unit="bytes", mode=config.progress) as progress,
        WorkerPool(serve_reading, num_workers=num_workers, arguments=(config, evaluations, directory)) as pool,
    ):
        _Dispatcher(states, pool=pool, num_workers=num_workers, progress=progress).run()
    return _join(states)


class _Dispatcher:
    """Decides which worker does what; see data_tools/reading.py for the conversation."""

    def __init__(
        self, states: list[_FileState], *, pool: WorkerPool, num_workers: int, progress: StageProgress
    ) -> None:
        self._states, self._pool, self._progress = states, pool, progress
        self._num_workers = num_workers
        self._unread = deque(states)
        self._waiting: deque[tuple[BatchHeader, bytes]] = deque()
        self._idle = set(range(num_workers))
        self._reader_ledgers: dict[int, Ledger] = {}
        self._bytes_read = 0

    def run(self) -> None:
        """Until everything is read and gone through."""
        self._assign()
        while len(self._idle) < self._num_workers:
            for worker, message in self._pool.wait():
                self._handle(worker, message)
            self._assign()
        for index, ledger in self._reader_ledgers.items():
            self._states[index].ledger.add(ledger)

    def _assign(self) -> None:
        while self._idle and (self._waiting or self._unread):
            worker = min(self._idle)
            self._idle.remove(worker)
            if self._waiting:
                header, batch = self._waiting.popleft()
                self._pool.tasks[worker] = self._describe(header)
                self._pool.send(worker, header)
                self._pool.send_bytes(worker, batch)
            else:
                file = self._unread.popleft().file
                self._pool.tasks[worker] = file.path
                self._pool.send(worker, file)

    def _handle(self, worker: int, message: Offer | BatchResult | FileResult) -> None:
        if isinstance(message, Offer):
            self._note_bytes(message.header.file, message.bytes_read)
            room = BATCHES_WAITING_PER_WORKER * self._num_workers - len(self._waiting)
            is_wanted = self._num_workers > 1 and not self._unread and room > 0
            if not is_wanted:
                self._pool.tasks[worker] = self._describe(message.header)
            self._pool.send(worker, is_wanted)
            if is_wanted:
                self._waiting.append((message.header, self._pool.receive_bytes(worker)))
                self._assign()
        elif isinstance(message, BatchResult):
            self._states[message.header.file].add(message)
            if message.is_own:
                self._pool.tasks[worker] = self._states[message.header.file].file.path
            else:
                self._idle.add(worker)
        else:
            self._note_bytes(message.file, message.bytes_read)
            self._reader_ledgers[message.file] = message.ledger
            self._states[message.file].last_outcomes = message.outcomes
            self._idle.add(worker)

    def _note_bytes(self, file: int, bytes_read: int) -> None:
        state = self._states[file]
        self._bytes_read += bytes_read - state.bytes_read
        state.bytes_read = bytes_read
        self._progress.update(self._bytes_read)

    def _describe(self, header: BatchHeader) -> str:
        return f"{self._states[header.file].file.path}, records {header.first_record} to {header.last_record}"


def _join(states: list[_FileState]) -> Collection:
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
                        outcomes=outcomes,
                        first_document=first,
                        num_documents=count,
                    )
                )
            first += count
        if state.last_outcomes:
            batches.append(
                SpooledBatch(
                    file=state.file.index,
                    place=NOWHERE,
                    keys_place=None,
                    outcomes=state.last_outcomes,
                    first_document=first,
                    num_documents=0,
                )
            )
    return Collection(
        batches=batches,
        hashes=np.frombuffer(b"".join(result.hashes for result in results), np.uint8).reshape(-1, TEXT_HASH_BYTES),
        is_validation=np.frombuffer(b"".join(result.is_validation for result in results), np.bool_),
        num_characters=np.frombuffer(b"".join(result.num_characters for result in results), np.uint32),
        ledgers=[
            FileLedger(source=state.file.source.name, path=state.file.path, bytes=state.file.bytes, counts=state.ledger)
            for state in states
        ],
    )
