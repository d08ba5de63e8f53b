"""Fourth stage, inside a worker: tokenize a batch of spooled documents and say what became of each of its records."""

from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from data_tools.dedup.corpus import TEXT_HASH_BYTES
from data_tools.dedup.decide import SPLITS, Decision
from data_tools.dedup.lines import read_without_lines
from data_tools.ledger import DroppedRecord, Ledger
from data_tools.output.tables import DROPPED, FAILED, DocumentOrigin, RecordRow, build_rows
from data_tools.tokenizer.encoder import DocumentEncoder
from data_tools.work.spool import BlobRef, CleanDocument, SpoolWriter, read_outcomes
from trireme.tokenizer.tokenizer import Tokenizer

PACKED_NAME = "packed"


@dataclass(frozen=True, kw_only=True)
class TokenizeTask:
    """A batch to tokenize."""

    place: BlobRef
    fates: np.ndarray
    """uint8 per document, of `Fate`."""
    hashes: bytes
    near_hashes: list[str]
    """Of each near duplicate in it, in order: the hash of the document that is kept instead."""
    repeated_lines: np.ndarray | None
    """[bytes] uint8: a bit per line of all its documents; None where repeated lines stay."""
    outcomes: tuple[BlobRef, ...]
    """Where the outcomes lie of records that were not kept."""
    source: str
    file: str


@dataclass(frozen=True, kw_only=True)
class PackedDocuments:
    """The documents of a batch that go into one shard."""

    tokens: np.ndarray
    """All tokens, end to end."""
    origins: list[DocumentOrigin]
    num_characters: np.ndarray
    """int64 per document."""
    num_bytes: np.ndarray
    """int64 per document: of its text in UTF-8."""


@dataclass(frozen=True, kw_only=True)
class PackedBatch:
    """A tokenized batch."""

    shards: dict[str, PackedDocuments]
    ledger: Ledger
    """What was kept, and what was dropped in this stage."""
    records: pa.RecordBatch
    """The rows of all its records, for the table of records."""


@dataclass(frozen=True, kw_only=True)
class PackSettings:
    """What a worker has to know."""

    tokenizer_path: Path
    dtype: np.dtype[Any]
    """Of tokens."""
    min_characters: int
    """Of a document that lines were removed from."""
    documents_directory: Path
    """Where documents and outcomes lie."""
    directory: Path
    """Where packed batches are spooled."""
    run: str
    """A name that no other run of the stage has or had."""


def serve_packing(connection: Connection, worker: int, settings: PackSettings) -> None:
    """Answer every `PackTask` with the place of its `PackedBatch`, until None."""
    encoder = DocumentEncoder(Tokenizer(settings.tokenizer_path), dtype=settings.dtype)
    spool = SpoolWriter(settings.directory, spool=f"{settings.run}_{worker:04d}", name=PACKED_NAME)
    while (task := connection.recv()) is not None:
        connection.send(spool.append(pack_batch(task, encoder=encoder, settings=settings)))


def pack_batch(task: TokenizeTask, *, encoder: DocumentEncoder, settings: PackSettings) -> PackedBatch:
    """Tokenize the documents that stay; count the others."""
    ledger = Ledger()
    documents = read_without_lines(settings.documents_directory, task.place, task.repeated_lines)
    hashes = [task.hashes[i : i + TEXT_HASH_BYTES].hex() for i in range(0, len(task.hashes), TEXT_HASH_BYTES)]
    is_short = np.zeros(len(documents), np.bool_)
    if task.repeated_lines is not None:
        is_short = np.array([len(document.text) < settings.min_characters for document in documents], np.bool_)
    rows: list[RecordRow] = []
    shards = {}
    for name, fate in SPLITS.items():
        numbers = np.flatnonzero((task.fates == fate) & ~is_short)
        texts = [documents[number].text for number in numbers]
        tokens, lengths = encoder.encode(texts)
        origins = [
            DocumentOrigin(
                source=task.source,
                file=task.file,
                record=documents[number].record,
                offset=documents[number].offset,
                id=documents[number].id,
                url=documents[number].url,
                title=documents[number].title,
                num_tokens=int(length),
                text_hash=hashes[number],
                language=documents[number].language,
            )
            for number, length in zip(numbers, lengths, strict=True)
        ]
        rows += [_build_row(documents[number], name, None, "", hashes[number]) for number in numbers]
        ledger.kept += len(origins)
        shards[name] = PackedDocuments(
            tokens=tokens,
            origins=origins,
            num_characters=np.array([len(text) for text in texts], np.int64),
            num_bytes=np.array([len(text.encode("utf-8")) for text in texts], np.int64),
        )
    for dropped, reason, detail in _list_dropped(task, is_short):
        document = documents[dropped]
        name = document.url or document.title or document.id
        ledger.drop(reason, record=document.record, name=name, detail=detail)
        rows.append(_build_row(document, DROPPED, reason, detail, hashes[dropped]))
    ledger.outcomes = []
    for outcome in read_outcomes(settings.documents_directory, task.outcomes):
        fate_name = FAILED if outcome.is_failed else DROPPED
        rows.append(_build_row(outcome, fate_name, outcome.reason, outcome.detail, None))
    return PackedBatch(shards=shards, ledger=ledger, records=build_rows(rows))


def _list_dropped(task: TokenizeTask, is_short: np.ndarray) -> Iterator[tuple[int, str, str]]:
    """Numbers of the documents that are not kept, each with the reason and its detail for the ledger."""
    for number in np.flatnonzero(task.fates == Decision.DUPLICATE):
        yield int(number), "duplicate", ""
    for number, kept in zip(np.flatnonzero(task.fates == Decision.NEAR_DUPLICATE), task.near_hashes, strict=True):
        yield int(number), "near_duplicate", f"of the document with text_hash {kept}"
    for number in np.flatnonzero(is_short & np.isin(task.fates, list(SPLITS.values()))):
        yield int(number), "repeated_lines", "too little is left of it"


def _build_row(
    record: CleanDocument | DroppedRecord, fate: str, reason: str | None, detail: str, text_hash: str | None
) -> RecordRow:
    return RecordRow(
        record=record.record,
        fate=fate,
        reason=reason,
        detail=detail,
        id=record.id,
        url=record.url,
        title=record.title,
        text_hash=text_hash,
        language=record.language,
    )
