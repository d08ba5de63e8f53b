"""First stage, in the parent: share the input out among workers and collect, in input order, what they kept."""

from collections import deque
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from data_tools.config import DataPrepConfig
from data_tools.decontamination import EvaluationTexts
from data_tools.ledger import FileLedger, Ledger
from data_tools.reading import TEXT_HASH_BYTES, Answer, BatchHeader, BatchResult, FileResult, Offer, serve_reading
from data_tools.sources import InputFile
from data_tools.spool import NOWHERE, SpoolPlace
from data_tools.stage_progress import StageProgress
from data_tools.workers import WorkerDiedError, WorkerPool

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
    num_offered: int = 0
    """Batches that its reader has cut so far."""
    is_at_batch: bool = False
    """Whether its reader goes through the last of them itself."""
    taken: set[int] = field(default_factory=set)
    """Numbers of the batches that were gone through, or are in the hands of this process or another worker."""

    def add(self, result: BatchResult) -> None:
        """Take a batch's result, in any order."""
        self.results[result.header.number] = result
        self.taken.add(result.header.number)
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


@dataclass(frozen=True, kw_only=True)
class _HandedBatch:
    """A batch that waits for a worker, or that one is at."""

    header: BatchHeader
    content: bytes


class _Dispatcher:
    """Decides which worker does what; see data_tools/reading.py for the conversation."""

    def __init__(
        self, states: list[_FileState], *, pool: WorkerPool, num_workers: int, progress: StageProgress
    ) -> None:
        self._states, self._pool, self._progress = states, pool, progress
        self._num_workers = num_workers
        self._unread = deque(states)
        self._waiting: deque[_HandedBatch] = deque()
        self._work: dict[int, _FileState | _HandedBatch] = {}
        """What each worker that is not idle is at."""
        self._reader_ledgers: dict[int, Ledger] = {}
        self._bytes_read = 0

    def run(self) -> None:
        """Until everything is read and gone through."""
        self._assign()
        while self._work:
            for worker, message in self._pool.wait():
                try:
                    self._handle(worker, message)
                except WorkerDiedError as death:
                    self._replace(death)
            self._assign()
        for index, ledger in self._reader_ledgers.items():
            self._states[index].ledger.add(ledger)

    def _assign(self) -> None:
        idle = [worker for worker in range(self._num_workers) if worker not in self._work]
        for worker in idle:
            if not self._waiting and not self._unread:
                return
            work = self._work[worker] = self._waiting.popleft() if self._waiting else self._unread.popleft()
            try:
                if isinstance(work, _HandedBatch):
                    self._pool.tasks[worker] = self._describe(work.header)
                    self._pool.send(worker, work.header)
                    self._pool.send_bytes(worker, work.content)
                else:
                    self._pool.tasks[worker] = work.file.path
                    self._pool.send(worker, work.file)
            except WorkerDiedError as death:
                self._replace(death)

    def _replace(self, death: WorkerDiedError) -> None:
        """Put the work of a dead worker back to where the next one takes it from."""
        if self._pool.is_gone(death):
            return
        work = self._work.pop(death.worker, None)
        if isinstance(work, _HandedBatch):
            self._waiting.appendleft(work)
            name = f"batch {work.header.number} of file {work.header.file}"
        elif work is not None:
            self._unread.appendleft(work)
            state = f"batch {work.num_offered - 1}" if work.is_at_batch else f"reading behind {work.num_offered}"
            name = f"{state} of file {work.file.index}"
            work.is_at_batch, work.num_offered = False, 0
        self._pool.replace(death, work=name if work is not None else None)

    def _handle(self, worker: int, message: Offer | BatchResult | FileResult | WorkerDiedError) -> None:
        if isinstance(message, WorkerDiedError):
            raise message
        if isinstance(message, Offer):
            self._answer(worker, message)
            return
        work = self._work[worker]
        if isinstance(message, BatchResult):
            self._states[message.header.file].add(message)
            if not message.is_own:
                del self._work[worker]
            elif isinstance(work, _FileState):
                work.is_at_batch = False
                self._pool.tasks[worker] = work.file.path
        else:
            self._note_bytes(message.file, message.bytes_read)
            self._reader_ledgers[message.file] = message.ledger
            self._states[message.file].last_outcomes = message.outcomes
            del self._work[worker]

    def _answer(self, worker: int, offer: Offer) -> None:
        header, state = offer.header, self._states[offer.header.file]
        self._note_bytes(header.file, offer.bytes_read)
        state.num_offered = header.number + 1
        room = BATCHES_WAITING_PER_WORKER * self._num_workers - len(self._waiting)
        if header.number in state.taken:
            self._pool.send(worker, Answer.SKIP)
        elif self._num_workers > 1 and not self._unread and room > 0:
            self._pool.send(worker, Answer.SEND)
            self._waiting.append(_HandedBatch(header=header, content=self._pool.receive_bytes(worker)))
            state.taken.add(header.number)
            self._assign()
        else:
            state.is_at_batch = True
            self._pool.tasks[worker] = self._describe(header)
            self._pool.send(worker, Answer.KEEP)

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
