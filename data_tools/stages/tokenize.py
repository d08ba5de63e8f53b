"""Fourth stage, in the parent: have the spooled documents tokenized, and write the shards in input order."""

import pickle
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data_tools.dedup.corpus import Corpus
from data_tools.dedup.decide import SPLITS, Decision, Decisions
from data_tools.errors import PreparationError
from data_tools.ledger import find_discrepancies
from data_tools.output.stats import SplitResult
from data_tools.output.tables import RECORD_TABLE_NAME, TABLE_SUFFIX, DocumentTableWriter, RecordTableWriter
from data_tools.stages.tokenize_worker import (
    PACKED_NAME,
    PackedBatch,
    PackedDocuments,
    PackSettings,
    TokenizeTask,
    serve_packing,
)
from data_tools.work.journal import JournalWriter, read_journals
from data_tools.work.pool import WorkerDiedError, WorkerPool
from data_tools.work.progress import Stages
from data_tools.work.spool import BlobRef, SpoolReader, holds_place
from trireme.shards.shard import ShardWriter

BATCHES_AHEAD_PER_WORKER = 4
"""Bounds how far the workers may be ahead of what is written."""


class PackEntry(NamedTuple):
    """A line of a packing journal."""

    number: int
    """Of the batch."""
    place: BlobRef


class TokenizeStage:
    """The batches of a collection on their way into shards.

    Args:
        settings: its `directory` is the stage's; what earlier runs have done there is not done again.
    """

    def __init__(self, collection: Corpus, choice: Decisions, *, settings: PackSettings, stages: Stages) -> None:
        self._collection, self._choice = collection, choice
        self._settings, self._stages = settings, stages
        self._places: dict[int, BlobRef] = {}
        for entry in read_journals(settings.directory):
            if holds_place(settings.directory, entry.place, name=PACKED_NAME):
                self._places[entry.number] = entry.place

    def tokenize(self, numbers: Iterable[int], *, num_workers: int) -> None:
        """Tokenize some of the batches, and write none into a shard."""
        for _ in self._run(list(numbers), num_workers=num_workers):
            pass

    def write_shards(self, output: Path, *, vocab_size: int, num_workers: int) -> dict[str, SplitResult]:
        """Tokenize what is left; write `output`/train and /validation with their document tables, and the table of all
        records.

        What is kept, and what is dropped here, is counted in the collection's ledgers.

        Returns:
            Split name -> what was packed. A split without documents has no files.
        Raises:
            PreparationError: the ledgers do not account for every record.
        """
        dtype = self._settings.dtype
        writers = {name: _SplitWriter(output / name, dtype=dtype, vocab_size=vocab_size) for name in SPLITS}
        records = RecordTableWriter(output / RECORD_TABLE_NAME)
        collection = self._collection
        with SpoolReader(self._settings.directory, name=PACKED_NAME) as reader:
            for number in self._run(list(range(len(collection.batches))), num_workers=num_workers):
                packed: PackedBatch = pickle.loads(reader.read(self._places[number]))
                index = collection.batches[number].file
                ledger = collection.ledgers[index]
                ledger.counts.add(packed.ledger)
                records.add(packed.records, file=index, ledger=ledger)
                for name, documents in packed.shards.items():
                    writers[name].add(documents)
        records.close()
        if wrong := find_discrepancies(collection.ledgers) or records.find_differences(collection.ledgers):
            raise PreparationError("\n  ".join(map(str, wrong)))
        return {name: writer.commit() for name, writer in writers.items()}

    def _run(self, numbers: list[int], *, num_workers: int) -> Iterator[int]:
        """Tokenize the batches that are not yet; yield all numbers in their order, each as soon as it is there."""
        batches = self._collection.batches
        total = sum(batches[number].num_documents for number in numbers)
        missing = {number: batches[number].num_documents for number in numbers if number not in self._places}
        done = total - sum(missing.values())
        with self._stages.begin("tokenize", total=total, unit="documents", done_before=done) as progress:
            for number in self._run_missing(numbers, num_workers=num_workers):
                yield number
                done += missing.get(number, 0)
                progress.update(done)

    def _run_missing(self, numbers: list[int], *, num_workers: int) -> Iterator[int]:
        missing = [number for number in numbers if number not in self._places]
        if not missing:
            yield from numbers
            return
        num_workers = min(num_workers, len(missing))
        with (
            JournalWriter(self._settings.directory, name=self._settings.run) as journal,
            WorkerPool(serve_packing, num_workers=num_workers, arguments=(self._settings,)) as pool,
        ):

            def note(number: int, place: BlobRef) -> None:
                journal.append(PackEntry(number, place))
                self._places[number] = place

            finished = _run_in_order(pool, missing, build_task=self._build_task, num_workers=num_workers, note=note)
            for number in numbers:
                while number not in self._places:
                    next(finished)
                yield number

    def _build_task(self, number: int) -> TokenizeTask:
        batch = self._collection.batches[number]
        documents, ledger = batch.documents, self._collection.ledgers[batch.file]
        fates, firsts, lines = self._choice.fates[documents], self._choice.firsts, self._choice.repeated_lines
        near = [] if firsts is None else firsts[documents][fates == Decision.NEAR_DUPLICATE]
        return TokenizeTask(
            place=batch.place,
            fates=np.array(fates),
            hashes=self._collection.hashes[documents].tobytes(),
            near_hashes=[self._collection.hashes[first].tobytes().hex() for first in near],
            repeated_lines=None if lines is None else lines.of_batch(number),
            outcomes=batch.outcomes,
            source=ledger.source,
            file=ledger.path,
        )


def _run_in_order(
    pool: WorkerPool,
    numbers: list[int],
    *,
    build_task: Callable[[int], TokenizeTask],
    num_workers: int,
    note: Callable[[int, BlobRef], None],
) -> Iterator[int]:
    """Hand out the batches; note each that comes back, and yield the numbers in their order."""
    assigned: dict[int, int] = {}
    finished: set[int] = set()
    again: list[int] = []
    next_task = next_result = 0

    def replace(death: WorkerDiedError) -> None:
        if not pool.is_gone(death):
            work = assigned.pop(death.worker, None)
            pool.replace(death, work=work)
            if work is not None:
                again.append(work)

    while next_result < len(numbers):
        for worker in [worker for worker in range(num_workers) if worker not in assigned]:
            if again:
                number = again.pop()
            elif next_task < min(len(numbers), next_result + BATCHES_AHEAD_PER_WORKER * num_workers):
                number, next_task = numbers[next_task], next_task + 1
            else:
                break
            task = build_task(number)
            assigned[worker] = number
            pool.tasks[worker] = f"tokenizing documents of {task.file}"
            try:
                pool.send(worker, task)
            except WorkerDiedError as death:
                replace(death)
        if numbers[next_result] not in finished:
            for worker, result in pool.wait():
                if isinstance(result, WorkerDiedError):
                    replace(result)
                else:
                    number = assigned.pop(worker)
                    note(number, result)
                    finished.add(number)
        while next_result < len(numbers) and numbers[next_result] in finished:
            yield numbers[next_result]
            next_result += 1


class _SplitWriter:
    """A shard, its document table and its statistics."""

    def __init__(self, prefix: Path, *, dtype: np.dtype[Any], vocab_size: int) -> None:
        self._shard = ShardWriter(prefix, dtype=dtype)
        self._table = DocumentTableWriter(prefix.with_name(prefix.name + TABLE_SUFFIX))
        self._result = SplitResult(dtype=dtype.name, token_counts=np.zeros(vocab_size, np.int64))

    def add(self, documents: PackedDocuments) -> None:
        start = 0
        for origin in documents.origins:
            self._shard.add_document(documents.tokens[start : start + origin.num_tokens])
            self._table.add(origin)
            start += origin.num_tokens
        self._result.token_counts += np.bincount(documents.tokens, minlength=len(self._result.token_counts))
        self._result.text_bytes += int(documents.num_bytes.sum())
        self._result.statistics.add(
            [origin.language for origin in documents.origins],
            num_tokens=[origin.num_tokens for origin in documents.origins],
            num_characters=documents.num_characters,
            num_bytes=documents.num_bytes,
        )

    def commit(self) -> SplitResult:
        result = self._result
        result.num_documents, result.num_tokens = self._shard.num_documents, self._shard.num_tokens
        table = self._table.close()
        if result.num_documents:
            result.files = {**self._shard.commit(), TABLE_SUFFIX: table}
        else:
            self._shard.abort()
            self._table.path.unlink()
        return result
