"""The stage `tokenize` inside a worker: tokenize a batch of spooled documents, and list the outcome of each record."""

from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from data_tools.dedup.corpus import TEXT_HASH_BYTES
from data_tools.dedup.decide import SPLITS, Decision
from data_tools.dedup.lines import read_without_lines
from data_tools.ledger import DroppedRecord, Ledger
from data_tools.output.tables import DROPPED, FAILED, RecordRow, build_rows
from data_tools.tokenizer.encoder import DocumentEncoder
from data_tools.work.spool import BlobRef, CleanDocument, SpoolWriter, read_outcomes
from trireme.shards.document_table import DocumentOrigin
from trireme.tokenizer.tokenizer import Tokenizer

TOKENIZED_NAME = "tokenized"


class TokenizeEntry(NamedTuple):
    """An entry of a tokenizing journal."""

    number: int
    """Of the batch."""
    blob_ref: BlobRef
    """Its `TokenizedBatch`."""


@dataclass(frozen=True, kw_only=True)
class TokenizeTask:
    """A batch to tokenize."""

    blob_ref: BlobRef
    """Its documents."""
    decisions: np.ndarray
    """uint8 per document, of `Decision`."""
    hashes: bytes
    """TEXT_HASH_BYTES of each document's text."""
    near_hashes: list[str]
    """Of each near duplicate in it, in order: the text hash of the document that is kept instead."""
    repeated_lines: np.ndarray | None
    """[bytes] uint8: a bit per line of all its documents; None where repeated lines are kept."""
    outcomes: tuple[BlobRef, ...]
    """The records that reading dropped or failed."""
    source: str
    file: str


@dataclass(frozen=True, kw_only=True)
class TokenizedDocuments:
    """The documents of a batch that go into one shard."""

    tokens: np.ndarray
    """All tokens, end to end."""
    origins: list[DocumentOrigin]
    num_characters: np.ndarray
    """int64 per document."""
    num_bytes: np.ndarray
    """int64 per document: of its text in UTF-8."""


@dataclass(frozen=True, kw_only=True)
class TokenizedBatch:
    """A tokenized batch."""

    shards: dict[str, TokenizedDocuments]
    ledger: Ledger
    """Documents that were kept, and those that this stage dropped."""
    records: pa.RecordBatch
    """The rows of all its records, for the table of records."""


@dataclass(frozen=True, kw_only=True)
class TokenizeSettings:
    """The settings of a worker."""

    tokenizer_path: Path
    dtype: np.dtype[Any]
    """Of tokens."""
    min_characters: int
    """Minimum length of a document after lines were removed from it."""
    documents_directory: Path
    """Of the spools that reading wrote."""
    directory: Path
    """Of the spools and journals of this stage."""
    run_id: str
    """A name that no other run of the stage has or had."""


def serve_tokenizing(connection: Connection, worker: int, settings: TokenizeSettings) -> None:
    """Answer every `TokenizeTask` with a reference to its `TokenizedBatch`; end at None."""
    encoder = DocumentEncoder(Tokenizer(settings.tokenizer_path), dtype=settings.dtype)
    spool = SpoolWriter(settings.directory, spool=f"{settings.run_id}_{worker:04d}", name=TOKENIZED_NAME)
    while (task := connection.recv()) is not None:
        connection.send(spool.append(tokenize_batch(task, encoder=encoder, settings=settings)))


def tokenize_batch(task: TokenizeTask, *, encoder: DocumentEncoder, settings: TokenizeSettings) -> TokenizedBatch:
    """Tokenize the kept documents; count the others."""
    ledger = Ledger()
    documents = read_without_lines(settings.documents_directory, task.blob_ref, task.repeated_lines)
    hashes = [task.hashes[i : i + TEXT_HASH_BYTES].hex() for i in range(0, len(task.hashes), TEXT_HASH_BYTES)]
    is_short = np.zeros(len(documents), np.bool_)
    if task.repeated_lines is not None:
        is_short = np.array([len(document.text) < settings.min_characters for document in documents], np.bool_)
    rows: list[RecordRow] = []
    shards = {}
    for name, decision in SPLITS.items():
        numbers = np.flatnonzero((task.decisions == decision) & ~is_short)
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
        shards[name] = TokenizedDocuments(
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
        status = FAILED if outcome.is_failed else DROPPED
        rows.append(_build_row(outcome, status, outcome.reason, outcome.detail, None))
    return TokenizedBatch(shards=shards, ledger=ledger, records=build_rows(rows))


def _list_dropped(task: TokenizeTask, is_short: np.ndarray) -> Iterator[tuple[int, str, str]]:
    """Yield the number of each dropped document with the reason and its detail for the ledger."""
    for number in np.flatnonzero(task.decisions == Decision.DUPLICATE):
        yield int(number), "duplicate", ""
    for number, kept in zip(np.flatnonzero(task.decisions == Decision.NEAR_DUPLICATE), task.near_hashes, strict=True):
        yield int(number), "near_duplicate", f"of the document with text_hash {kept}"
    for number in np.flatnonzero(is_short & np.isin(task.decisions, list(SPLITS.values()))):
        yield int(number), "repeated_lines", "too little is left of it"


def _build_row(
    record: CleanDocument | DroppedRecord, status: str, reason: str | None, detail: str, text_hash: str | None
) -> RecordRow:
    return RecordRow(
        record=record.record,
        fate=status,
        reason=reason,
        detail=detail,
        id=record.id,
        url=record.url,
        title=record.title,
        text_hash=text_hash,
        language=record.language,
    )
