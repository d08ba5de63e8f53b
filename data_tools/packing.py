"""Fourth stage: tokenize the spooled documents in worker processes and pack them, in input order, into shards."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from data_tools.collection import Collection
from data_tools.document_table import TABLE_SUFFIX, DocumentOrigin, DocumentTableWriter
from data_tools.ledger import Ledger, Outcome, find_discrepancies
from data_tools.reading import TEXT_HASH_BYTES
from data_tools.record_table import (
    DROPPED,
    FAILED,
    RECORD_TABLE_NAME,
    RecordRow,
    RecordTableWriter,
    build_rows,
)
from data_tools.selection import SPLITS, Fate
from data_tools.spool import CleanDocument, SpoolPlace, read_batch, read_outcomes
from data_tools.stage_progress import Mode, StageProgress
from data_tools.workers import PreparationError, WorkerDiedError, WorkerPool
from trainer.data.index_format import ShardWriter, token_dtype
from trainer.data.tokenizer import Tokenizer

BATCHES_AHEAD_PER_WORKER = 4
"""Bounds what waits in memory for a slow batch before it."""


@dataclass(frozen=True, kw_only=True)
class PackTask:
    """A batch to tokenize."""

    place: SpoolPlace
    fates: np.ndarray
    """uint8 per document, of `Fate`."""
    hashes: bytes
    near_hashes: list[str]
    """Of each near duplicate in it, in order: the hash of the document that is kept instead."""
    outcomes: tuple[SpoolPlace, ...]
    """Where the outcomes lie of records that were not kept."""
    source: str
    file: str


@dataclass(frozen=True, kw_only=True)
class PackedDocuments:
    """The documents of a batch that go into one shard."""

    tokens: np.ndarray
    """All tokens, end to end."""
    origins: list[DocumentOrigin]
    text_bytes: int
    """UTF-8 bytes of their texts."""


@dataclass(frozen=True, kw_only=True)
class PackedBatch:
    """A tokenized batch."""

    shards: dict[str, PackedDocuments]
    ledger: Ledger
    """What was kept, and the duplicates of both kinds."""
    records: pa.RecordBatch
    """The rows of all its records, for the table of records."""


@dataclass(kw_only=True)
class SplitResult:
    """A packed shard."""

    num_documents: int = 0
    num_tokens: int = 0
    text_bytes: int = 0
    dtype: str
    """Integer type of the .bin by numpy's name."""
    token_counts: np.ndarray
    """[vocab_size] int64: how often each token occurs."""
    files: dict[str, dict[str, Any]] = field(default_factory=dict)
    """As a manifest records them; empty when there is no document."""


def pack_documents(
    collection: Collection,
    fates: np.ndarray,
    *,
    firsts: np.ndarray | None,
    tokenizer_path: Path,
    vocab_size: int,
    spool_directory: Path,
    output: Path,
    num_workers: int,
    mode: Mode,
) -> dict[str, SplitResult]:
    """Write `output`/train and /validation with their document tables and the table of all records.

    What is kept is counted in the ledgers.

    Args:
        firsts: number of the document that is kept instead of each near duplicate; None where there are none.
    Returns:
        Split name -> what was packed. A split without documents has no files.
    Raises:
        PreparationError: the ledgers do not account for every record.
    """
    dtype = token_dtype(vocab_size)
    writers = {name: _SplitWriter(output / name, dtype=dtype, vocab_size=vocab_size) for name in SPLITS}
    records = RecordTableWriter(output / RECORD_TABLE_NAME)
    tasks = _build_tasks(collection, fates, firsts)
    with (
        StageProgress("tokenize", total=len(fates), unit="documents", mode=mode) as progress,
        WorkerPool(serve_packing, num_workers=num_workers, arguments=(tokenizer_path, dtype, spool_directory)) as pool,
    ):
        done = 0
        results = _run_in_order(pool, [task for task, _ in tasks], num_workers=num_workers)
        for (task, index), batch in zip(tasks, results, strict=True):
            ledger = collection.ledgers[index]
            ledger.counts.add(batch.ledger)
            records.add(batch.records, file=index, ledger=ledger)
            for name, documents in batch.shards.items():
                writers[name].add(documents)
            done += len(task.fates)
            progress.update(done)
    records.close()
    if wrong := find_discrepancies(collection.ledgers) or records.find_differences(collection.ledgers):
        raise PreparationError("\n  ".join(map(str, wrong)))
    return {name: writer.commit() for name, writer in writers.items()}


def _build_tasks(collection: Collection, fates: np.ndarray, firsts: np.ndarray | None) -> list[tuple[PackTask, int]]:
    tasks = []
    for batch in collection.batches:
        documents = slice(batch.first_document, batch.first_document + batch.num_documents)
        ledger = collection.ledgers[batch.file]
        near = [] if firsts is None else firsts[documents][fates[documents] == Fate.NEAR_DUPLICATE]
        task = PackTask(
            place=batch.place,
            fates=fates[documents],
            hashes=collection.hashes[documents].tobytes(),
            near_hashes=[collection.hashes[first].tobytes().hex() for first in near],
            outcomes=batch.outcomes,
            source=ledger.source,
            file=ledger.path,
        )
        tasks.append((task, batch.file))
    return tasks


def _run_in_order(pool: WorkerPool, tasks: list[PackTask], *, num_workers: int) -> Iterator[PackedBatch]:
    """Hand out the tasks; yield the results in the order of the tasks, as soon as they are there."""
    assigned: dict[int, int] = {}
    results: dict[int, PackedBatch] = {}
    again: list[int] = []
    next_task = next_result = 0

    def replace(death: WorkerDiedError) -> None:
        if not pool.is_gone(death):
            work = assigned.pop(death.worker, None)
            pool.replace(death, work=work)
            if work is not None:
                again.append(work)

    while next_result < len(tasks):
        for worker in [worker for worker in range(num_workers) if worker not in assigned]:
            if again:
                number = again.pop()
            elif next_task < min(len(tasks), next_result + BATCHES_AHEAD_PER_WORKER * num_workers):
                number, next_task = next_task, next_task + 1
            else:
                break
            assigned[worker] = number
            pool.tasks[worker] = f"tokenizing documents of {tasks[number].file}"
            try:
                pool.send(worker, tasks[number])
            except WorkerDiedError as death:
                replace(death)
        if next_result not in results:
            for worker, result in pool.wait():
                if isinstance(result, WorkerDiedError):
                    replace(result)
                else:
                    results[assigned.pop(worker)] = result
        while next_result in results:
            yield results.pop(next_result)
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
        self._result.text_bytes += documents.text_bytes

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


def serve_packing(
    connection: Connection, worker: int, tokenizer_path: Path, dtype: np.dtype[Any], spool_directory: Path
) -> None:
    """Answer every `PackTask` with a `PackedBatch`, until None."""
    tokenizer = Tokenizer(tokenizer_path)
    while (task := connection.recv()) is not None:
        connection.send(_pack_batch(task, tokenizer=tokenizer, dtype=dtype, spool_directory=spool_directory))


def _pack_batch(task: PackTask, *, tokenizer: Tokenizer, dtype: np.dtype[Any], spool_directory: Path) -> PackedBatch:
    ledger = Ledger()
    documents = read_batch(spool_directory, task.place)
    hashes = [task.hashes[i : i + TEXT_HASH_BYTES].hex() for i in range(0, len(task.hashes), TEXT_HASH_BYTES)]
    rows: list[RecordRow] = []
    shards = {}
    for name, fate in SPLITS.items():
        numbers = np.flatnonzero(task.fates == fate)
        tokens, origins, text_bytes = [np.empty(0, dtype)], [], 0
        for number in numbers:
            document = documents[number]
            ids = np.array([*tokenizer.encode(document.text), tokenizer.eos_id], dtype)
            tokens.append(ids)
            text_bytes += len(document.text.encode("utf-8"))
            origins.append(
                DocumentOrigin(
                    source=task.source,
                    file=task.file,
                    record=document.record,
                    offset=document.offset,
                    id=document.id,
                    url=document.url,
                    title=document.title,
                    num_tokens=len(ids),
                    text_hash=hashes[number],
                    language=document.language,
                )
            )
        rows += [_build_row(documents[number], name, None, "", hashes[number]) for number in numbers]
        ledger.kept += len(origins)
        shards[name] = PackedDocuments(tokens=np.concatenate(tokens), origins=origins, text_bytes=text_bytes)
    for duplicate, reason, detail in _list_duplicates(task):
        document = documents[duplicate]
        name = document.url or document.title or document.id
        ledger.drop(reason, record=document.record, name=name, detail=detail)
        rows.append(_build_row(document, DROPPED, reason, detail, hashes[duplicate]))
    ledger.outcomes = []
    for outcome in read_outcomes(spool_directory, task.outcomes):
        fate_name = FAILED if outcome.is_failed else DROPPED
        rows.append(_build_row(outcome, fate_name, outcome.reason, outcome.detail, None))
    return PackedBatch(shards=shards, ledger=ledger, records=build_rows(rows))


def _list_duplicates(task: PackTask) -> Iterator[tuple[int, str, str]]:
    """Numbers of the documents that are not kept, each with the reason and its detail for the ledger."""
    for number in np.flatnonzero(task.fates == Fate.DUPLICATE):
        yield int(number), "duplicate", ""
    for number, kept in zip(np.flatnonzero(task.fates == Fate.NEAR_DUPLICATE), task.near_hashes, strict=True):
        yield int(number), "near_duplicate", f"of the document with text_hash {kept}"


def _build_row(
    record: CleanDocument | Outcome, fate: str, reason: str | None, detail: str, text_hash: str | None
) -> RecordRow:
    return RecordRow(record.record, fate, reason, detail, record.id, record.url, record.title, text_hash)
