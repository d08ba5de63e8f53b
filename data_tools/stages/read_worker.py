"""The stage `read` inside a worker: read input files, extract and filter batches of records, spool the documents.

One worker reads a file and cuts it into batches by size alone, so that batches do not depend on the number of workers.
It processes them itself while other files wait to be read, and hands them to idle workers otherwise: one large dump
keeps all processes busy, and so do many small archives.
"""

import hashlib
import pickle
from collections.abc import Iterable, Iterator
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from data_tools.config.schema import DataPrepConfig
from data_tools.dedup.corpus import hash_text
from data_tools.dedup.lines import LINES_NAME, hash_lines
from data_tools.dedup.minhash import KEYS_NAME, MinHasher
from data_tools.document import Document, apply_filter
from data_tools.filters.decontamination import Decontaminator, EvaluationTexts
from data_tools.inputs.files import InputFile, open_input
from data_tools.ledger import Ledger
from data_tools.readers.open import read_documents
from data_tools.stages.read_state import Answer, BatchHeader, BatchResult, FileResult, Keep, Offer
from data_tools.stages.steps import FilterChain
from data_tools.work.record_clock import RecordClock
from data_tools.work.spool import (
    OUTCOMES_NAME,
    BlobRef,
    CleanDocument,
    SpooledOutcomes,
    SpoolWriter,
    to_plain_tuples,
)


def name_spool(run_id: str, worker: int) -> str:
    """Return the name of a worker's spools, given its number among all worker processes of the run."""
    return f"{run_id}_{worker:04d}"


def serve_reading(
    connection: Connection,
    worker: int,
    config: DataPrepConfig,
    evaluations: EvaluationTexts | None,
    directory: Path,
    run_id: str,
) -> None:
    """Process what the parent sends: `InputFile`s to read, `BatchHeader`s each with a batch's bytes; end at None.

    Args:
        run_id: a name that no other run of the stage has or had.
    """
    pipeline = DocumentPipeline(config, evaluations, directory=directory, spool=name_spool(run_id, worker))
    while (task := connection.recv()) is not None:
        if isinstance(task, InputFile):
            _read_file(task, connection=connection, pipeline=pipeline, config=config)
        else:
            documents = pickle.loads(connection.recv_bytes())
            connection.send(pipeline.run(task, documents, is_own=False))


def _read_file(
    file: InputFile, *, connection: Connection, pipeline: "DocumentPipeline", config: DataPrepConfig
) -> None:
    stream = open_input(file)
    outcomes = SpooledOutcomes(pipeline.outcomes)
    ledger = Ledger(outcomes=outcomes)
    number = -1
    with stream:
        documents = read_documents(file, stream=stream, ledger=ledger, config=config)
        for number, batch in enumerate(_cut(documents, batch_bytes=config.batch_bytes)):
            header = BatchHeader(
                file=file.index,
                number=number,
                first_record=batch[0].record,
                last_record=batch[-1].record,
                outcomes=outcomes.take(),
            )
            connection.send(Offer(header=header, bytes_read=stream.bytes_read, failure=ledger.first_failure()))
            match connection.recv():
                case Answer.SEND:
                    connection.send_bytes(pickle.dumps(batch, protocol=5))
                case Keep(too_slow=records):
                    connection.send(pipeline.run(replace(header, too_slow=records), batch, is_own=True))
        bytes_read = stream.bytes_read
    ledger.outcomes = []
    connection.send(
        FileResult(
            file=file.index,
            num_batches=number + 1,
            bytes_read=bytes_read,
            ledger=ledger,
            outcomes=outcomes.take(),
        )
    )


def _cut(documents: Iterable[Document], *, batch_bytes: int) -> Iterator[list[Document]]:
    batch: list[Document] = []
    size = 0
    for document in documents:
        batch.append(document)
        size += len(document.content) + len(document.text)
        if size >= batch_bytes:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


class DocumentPipeline:
    """Turn batches of raw records into spooled documents."""

    def __init__(
        self, config: DataPrepConfig, evaluations: EvaluationTexts | None, *, directory: Path, spool: str
    ) -> None:
        self._config, self._spool = config, SpoolWriter(directory, spool=spool)
        self._clock = RecordClock(directory, name=spool, seconds=config.cleaning.max_record_seconds)
        self.outcomes = SpoolWriter(directory, spool=spool, name=OUTCOMES_NAME)
        self._decontaminator = Decontaminator(config.decontamination, evaluations) if evaluations else None
        self._minhasher: MinHasher | None = None
        if config.near_duplicates.is_enabled:
            self._minhasher = MinHasher(config.near_duplicates)
            self._keys = SpoolWriter(directory, spool=spool, name=KEYS_NAME)
        if config.line_duplicates.is_enabled:
            self._lines = SpoolWriter(directory, spool=spool, name=LINES_NAME)
        self._key = config.split.seed.to_bytes(8, "little")
        self._filters = FilterChain(config)
        self._validation_limit = round(config.split.validation_fraction * 2.0**64)

    def run(self, header: BatchHeader, documents: Iterable[Document], *, is_own: bool) -> BatchResult:
        """Extract, filter, hash and spool the documents of a batch."""
        outcomes = SpooledOutcomes(self.outcomes)
        ledger = Ledger(outcomes=outcomes)
        documents = self._clock.watch(documents, file=header.file, too_slow=header.too_slow, ledger=ledger)
        documents = self._filters.apply(documents, ledger)
        if self._decontaminator is not None:
            documents = apply_filter(self._decontaminator, documents, name="decontaminate", ledger=ledger)
        kept = [
            CleanDocument(
                record=document.record,
                offset=document.offset,
                id=document.id,
                url=document.url,
                title=document.title,
                text=document.text,
                language=document.language,
            )
            for document in documents
        ]
        hashes = [hash_text(document.text) for document in kept]
        ledger.outcomes = []
        return BatchResult(
            header=header,
            blob_ref=self._spool.append(to_plain_tuples(kept)),
            hashes=b"".join(hashes),
            is_validation=bytes(map(self._is_validation, hashes)),
            num_characters=np.array([len(document.text) for document in kept], dtype=np.uint32).tobytes(),
            languages=tuple(document.language for document in kept),
            keys_ref=self._spool_keys(kept),
            lines_ref=self._spool_lines(kept),
            ledger=ledger,
            outcomes=outcomes.take(),
            is_own=is_own,
        )

    def _spool_keys(self, documents: list[CleanDocument]) -> BlobRef | None:
        if self._minhasher is None:
            return None
        keys = np.empty((self._minhasher.num_bands, len(documents)), np.uint64)
        for column, document in enumerate(documents):
            keys[:, column] = self._minhasher.compute_keys(document.text)
        return self._keys.append_bytes(keys.tobytes())

    def _spool_lines(self, documents: list[CleanDocument]) -> BlobRef | None:
        if not self._config.line_duplicates.is_enabled:
            return None
        min_characters = self._config.line_duplicates.min_characters
        return self._lines.append([hash_lines(document.text, min_characters=min_characters) for document in documents])

    def _is_validation(self, text_hash: bytes) -> bool:
        drawn = hashlib.blake2b(text_hash, digest_size=8, key=self._key).digest()
        return int.from_bytes(drawn, "little") < self._validation_limit
