"""The stage `tokenize` in the parent: distribute spooled documents among workers, write shards in input order."""

import pickle
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from data_tools.dedup.corpus import Corpus
from data_tools.dedup.decide import SPLITS, Decision, Decisions
from data_tools.errors import PreparationError
from data_tools.ledger import find_discrepancies
from data_tools.output.stats import SplitResult
from data_tools.output.tables import RECORD_TABLE_NAME, DocumentTableWriter, RecordTableWriter
from data_tools.stages.cache import Stage
from data_tools.stages.tokenize_worker import (
    TOKENIZED_NAME,
    TokenizedBatch,
    TokenizedDocuments,
    TokenizeEntry,
    TokenizeSettings,
    TokenizeTask,
    serve_tokenizing,
)
from data_tools.work.journal import JournalWriter, read_journals
from data_tools.work.pool import WorkerDiedError, WorkerPool
from data_tools.work.progress import Stages
from data_tools.work.spool import BlobRef, SpoolReader, holds_blob
from trireme.shards.document_table import DOCUMENTS_SUFFIX
from trireme.shards.shard import ShardWriter

BATCHES_AHEAD_PER_WORKER = 4
"""Bounds how far the workers may be ahead of the writer."""


class TokenizeStage:
    """Tokenize the batches of a corpus and write them into shards.

    Args:
        settings: its `directory` is the stage's; batches that earlier runs have tokenized there are reused.
    """

    def __init__(self, corpus: Corpus, decided: Decisions, *, settings: TokenizeSettings, stages: Stages) -> None:
        self._corpus, self._decided = corpus, decided
        self._settings, self._stages = settings, stages
        self._refs: dict[int, BlobRef] = {}
        for entry in read_journals(settings.directory):
            if holds_blob(settings.directory, entry.blob_ref, name=TOKENIZED_NAME):
                self._refs[entry.number] = entry.blob_ref

    def tokenize(self, numbers: Iterable[int], *, num_workers: int) -> None:
        """Tokenize batches without writing shards."""
        for _ in self._run(list(numbers), num_workers=num_workers):
            pass

    def write_shards(self, output: Path, *, vocab_size: int, num_workers: int) -> dict[str, SplitResult]:
        """Tokenize the unfinished batches; write `output`/train and /validation, their document tables, and the
        table of all records.

        Kept documents, and those that this stage drops, are counted in the corpus's ledgers.

        Returns:
            Split name -> its result. A split without documents has no files.
        Raises:
            PreparationError: the ledgers do not account for every record.
        """
        dtype = self._settings.dtype
        writers = {name: _SplitWriter(output / name, dtype=dtype, vocab_size=vocab_size) for name in SPLITS}
        records = RecordTableWriter(output / RECORD_TABLE_NAME)
        corpus = self._corpus
        with SpoolReader(self._settings.directory, name=TOKENIZED_NAME) as reader:
            for number in self._run(list(range(len(corpus.batches))), num_workers=num_workers):
                tokenized: TokenizedBatch = pickle.loads(reader.read(self._refs[number]))
                index = corpus.batches[number].file
                ledger = corpus.ledgers[index]
                ledger.counts.add(tokenized.ledger)
                records.add(tokenized.records, file=index, ledger=ledger)
                for name, documents in tokenized.shards.items():
                    writers[name].add(documents)
        records.close()
        if wrong := find_discrepancies(corpus.ledgers) or records.find_differences(corpus.ledgers):
            raise PreparationError("\n  ".join(map(str, wrong)))
        return {name: writer.commit() for name, writer in writers.items()}

    def _run(self, numbers: list[int], *, num_workers: int) -> Iterator[int]:
        """Tokenize the unfinished batches; yield all numbers in order, each as soon as its batch is finished."""
        batches = self._corpus.batches
        total = sum(batches[number].num_documents for number in numbers)
        missing = {number: batches[number].num_documents for number in numbers if number not in self._refs}
        done = total - sum(missing.values())
        with self._stages.begin(Stage.TOKENIZE, total=total, unit="documents", done_before=done) as progress:
            for number in self._run_missing(numbers, num_workers=num_workers):
                yield number
                done += missing.get(number, 0)
                progress.update(done)

    def _run_missing(self, numbers: list[int], *, num_workers: int) -> Iterator[int]:
        missing = [number for number in numbers if number not in self._refs]
        if not missing:
            yield from numbers
            return
        num_workers = min(num_workers, len(missing))
        with (
            JournalWriter(self._settings.directory, name=self._settings.run_id) as journal,
            WorkerPool(serve_tokenizing, num_workers=num_workers, arguments=(self._settings,)) as pool,
        ):

            def note(number: int, blob_ref: BlobRef) -> None:
                journal.append(TokenizeEntry(number, blob_ref))
                self._refs[number] = blob_ref

            finished = _run_in_order(pool, missing, build_task=self._build_task, num_workers=num_workers, note=note)
            for number in numbers:
                while number not in self._refs:
                    next(finished)
                yield number

    def _build_task(self, number: int) -> TokenizeTask:
        batch = self._corpus.batches[number]
        documents, ledger = batch.documents, self._corpus.ledgers[batch.file]
        decisions, lines = self._decided.decisions[documents], self._decided.repeated_lines
        kept = self._decided.kept_document
        near = [] if kept is None else kept[documents][decisions == Decision.NEAR_DUPLICATE]
        return TokenizeTask(
            blob_ref=batch.blob_ref,
            decisions=np.array(decisions),
            hashes=self._corpus.hashes[documents].tobytes(),
            near_hashes=[self._corpus.hashes[first].tobytes().hex() for first in near],
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
    """Distribute the batches; note each finished one, and yield the numbers in order."""
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
            pool.tasks[worker] = f"documents of {task.file}"
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
    """Write a shard and its document table, and collect its statistics."""

    def __init__(self, prefix: Path, *, dtype: np.dtype[Any], vocab_size: int) -> None:
        self._shard = ShardWriter(prefix, dtype=dtype)
        self._table = DocumentTableWriter(prefix.with_name(prefix.name + DOCUMENTS_SUFFIX))
        self._result = SplitResult(dtype=dtype.name, token_counts=np.zeros(vocab_size, np.int64))

    def add(self, documents: TokenizedDocuments) -> None:
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
            result.files = {**self._shard.commit(), DOCUMENTS_SUFFIX: table}
        else:
            self._shard.abort()
            self._table.path.unlink()
        return result
