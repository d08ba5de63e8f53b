"""The stage `read` in the parent: distribute the input among workers, and keep a journal of their results."""

import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from data_tools.config.schema import DataPrepConfig
from data_tools.filters.decontamination import EvaluationTexts
from data_tools.inputs.files import InputFile
from data_tools.stages.cache import Stage
from data_tools.stages.read_state import Answer, BatchHeader, BatchResult, FileResult, FileState, Keep, Offer, ReadEntry
from data_tools.stages.read_worker import name_spool, serve_reading
from data_tools.work import record_clock
from data_tools.work.journal import JournalWriter
from data_tools.work.pool import WorkerDiedError, WorkerPool
from data_tools.work.progress import StageProgress, Stages
from data_tools.work.record_clock import read_slow_record

BATCHES_WAITING_PER_WORKER = 2

logger = logging.getLogger(__name__)


def read_files(
    states: list[FileState],
    *,
    config: DataPrepConfig,
    evaluations: EvaluationTexts | None,
    directory: Path,
    file_keys: dict[int, str],
    run_id: str,
    num_workers: int,
    stages: Stages,
) -> None:
    """Read the unfinished files; spool the cleaned documents into the stage's directory and keep a journal there.

    Args:
        file_keys: index of each file -> its key in journals.
        run_id: a name that no other run of the stage has or had.
    Raises:
        PreparationError: an input cannot be opened, or a worker died twice at the same work.
        BadRecordError: a record cannot be read, and config.strict is set.
    """
    sizes = [state.file.bytes for state in states]
    total = None if None in sizes else sum(size or 0 for size in sizes)
    # A file without a known number of batches may still keep every worker busy.
    with (
        stages.begin(
            Stage.READ, total=total, unit="bytes", done_before=sum(state.bytes_read for state in states)
        ) as progress,
        JournalWriter(directory, name=run_id) as journal,
        WorkerPool(serve_reading, num_workers=num_workers, arguments=(config, evaluations, directory, run_id)) as pool,
    ):

        def note(file: InputFile, result: BatchResult | FileResult) -> None:
            journal.append(ReadEntry(file_keys[file.index], result))

        def find_slow_record(number: int) -> tuple[int, int] | None:
            return read_slow_record(directory, name=name_spool(run_id, number))

        _Dispatcher(
            states,
            pool=pool,
            num_workers=num_workers,
            progress=progress,
            note=note,
            find_slow_record=find_slow_record,
        ).run()


@dataclass(frozen=True, kw_only=True)
class _HandedBatch:
    """A batch that waits for a worker or is assigned to one."""

    header: BatchHeader
    content: bytes


class _Dispatcher:
    """Assign work to workers; data_tools/stages/read_worker.py describes the protocol."""

    def __init__(
        self,
        states: list[FileState],
        *,
        pool: WorkerPool,
        num_workers: int,
        progress: StageProgress,
        note: Callable[[InputFile, BatchResult | FileResult], None],
        find_slow_record: Callable[[int], tuple[int, int] | None],
    ) -> None:
        self._pool, self._progress, self._note = pool, progress, note
        self._find_slow_record = find_slow_record
        self._num_workers = num_workers
        self._unread = deque(state for state in states if not state.is_finished)
        self._waiting: deque[_HandedBatch] = deque()
        self._work: dict[int, FileState | _HandedBatch] = {}
        """The work of each worker that is not idle."""
        self._bytes_read = sum(state.bytes_read for state in states)
        self._state_of = {state.file.index: state for state in states}

    def run(self) -> None:
        """Run until every file is read and every batch processed."""
        self._assign()
        while self._work:
            for worker, message in self._pool.wait():
                try:
                    self._handle(worker, message)
                except WorkerDiedError as death:
                    self._replace(death)
            self._assign()

    def _assign(self) -> None:
        idle = [worker for worker in range(self._num_workers) if worker not in self._work]
        for worker in idle:
            if not self._waiting and not self._unread:
                return
            work = self._work[worker] = self._waiting.popleft() if self._waiting else self._unread.popleft()
            try:
                if isinstance(work, _HandedBatch):
                    self._pool.tasks[worker] = self._describe(work.header)
                    too_slow = frozenset(self._state_of[work.header.file].too_slow)
                    self._pool.send(worker, replace(work.header, too_slow=too_slow))
                    self._pool.send_bytes(worker, work.content)
                else:
                    self._pool.tasks[worker] = work.file.path
                    self._pool.send(worker, work.file)
            except WorkerDiedError as death:
                self._replace(death)

    def _replace(self, death: WorkerDiedError) -> None:
        """Return the work of a dead worker to its queue."""
        if self._pool.is_gone(death):
            return
        work = self._work.pop(death.worker, None)
        if isinstance(work, _HandedBatch):
            self._waiting.appendleft(work)
            name = f"batch {work.header.number} of file {work.header.file}"
        elif work is not None:
            self._unread.appendleft(work)
            state = f"batch {work.num_offered - 1}" if work.is_at_batch else f"reading after {work.num_offered}"
            name = f"{state} of file {work.file.index}"
            work.is_at_batch, work.num_offered = False, 0
        if work is not None and death.signal == record_clock.SIGNAL:
            # The next process skips the record: no second death at the same work.
            name = self._skip_slow_record(death.number) or name
        self._pool.replace(death, work=name if work is not None else None)

    def _skip_slow_record(self, number: int) -> str | None:
        """Mark the record that exceeded the time limit, and return its name."""
        slow = self._find_slow_record(number)
        if slow is None:
            return None
        file, record = slow
        self._state_of[file].too_slow.add(record)
        logger.warning(
            "warning: record %d of %s took more than data_prep.cleaning.max_record_seconds and counts as failed",
            record,
            self._state_of[file].file.path,
        )
        return f"record {record} of file {file}"

    def _handle(self, worker: int, message: Offer | BatchResult | FileResult | WorkerDiedError) -> None:
        if isinstance(message, WorkerDiedError):
            raise message
        if isinstance(message, Offer):
            self._answer(worker, message)
            return
        work = self._work[worker]
        state = self._state_of[message.header.file if isinstance(message, BatchResult) else message.file]
        self._note(state.file, message)
        state.add(message)
        if isinstance(message, BatchResult):
            if not message.is_own:
                del self._work[worker]
            elif isinstance(work, FileState):
                work.is_at_batch = False
                self._pool.tasks[worker] = work.file.path
        else:
            self._note_bytes(state, message.bytes_read)
            del self._work[worker]

    def _answer(self, worker: int, offer: Offer) -> None:
        header, state = offer.header, self._state_of[offer.header.file]
        state.check(offer.failure)
        self._note_bytes(state, offer.bytes_read)
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
            self._pool.send(worker, Keep(too_slow=frozenset(state.too_slow)))

    def _note_bytes(self, state: FileState, bytes_read: int) -> None:
        self._bytes_read += bytes_read - state.bytes_read
        state.bytes_read = bytes_read
        self._progress.update(self._bytes_read)

    def _describe(self, header: BatchHeader) -> str:
        return f"{self._state_of[header.file].file.path}, records {header.first_record}–{header.last_record}"
