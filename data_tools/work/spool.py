"""Spools: files to which each worker process appends its batches.

A spool's name is never used twice, so the files of a killed run do not change, and references to them in a journal
(journal.py) remain valid.
"""

import errno
import os
import pickle
import resource
import zlib
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from data_tools.errors import PreparationError
from data_tools.ledger import DroppedRecord

DOCUMENTS_NAME = "documents"
OUTCOMES_NAME = "outcomes"
MIN_OPEN_FILES, MAX_OPEN_FILES = 16, 4096
"""Files that a reader holds open at least and at most, whatever the process's limit is."""
MAX_FILE_LIMIT = 1 << 16
"""More than any preparation needs; some systems allow 2^30, and some programs loop over all of them."""


class CleanDocument(NamedTuple):
    """A cleaned document with its origin in its input file."""

    record: int
    offset: int | None
    id: str
    url: str
    title: str
    text: str
    language: str = ""


class BlobRef(NamedTuple):
    """A reference to a batch in a spool."""

    spool: str
    """Name of the worker's files."""
    offset: int
    length: int
    checksum: int
    """CRC-32 of the bytes."""

    @classmethod
    def empty(cls) -> "BlobRef":
        """Return the reference of a batch without documents."""
        return cls("", 0, 0, 0)


class SpoolWriter:
    """Append batches of one kind to a worker's own file.

    Args:
        spool: a name that no other process has or had.
        name: kind of content.
    """

    def __init__(self, directory: Path, *, spool: str, name: str = DOCUMENTS_NAME) -> None:
        self._spool = spool
        self._path = _spool_file(directory, name, spool)
        with self._explain_errors():
            # Stays open as long as the worker lives.
            self._stream = open(self._path, "xb")  # noqa: SIM115
        self._offset = 0

    def append(self, value: Any) -> BlobRef:
        """Pickle a batch and write it; other processes can read it when this returns.

        Raises:
            PreparationError: the file cannot be written, for example because the disk is full.
        """
        return self.append_bytes(pickle.dumps(value, protocol=5))

    def append_bytes(self, data: bytes) -> BlobRef:
        """Write the bytes of a batch."""
        with self._explain_errors():
            self._stream.write(data)
            self._stream.flush()
        blob_ref = BlobRef(self._spool, self._offset, len(data), zlib.crc32(data))
        self._offset += len(data)
        return blob_ref

    @contextmanager
    def _explain_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise PreparationError(f"{self._path}: cannot write the file: {error.strerror or error}") from error


def raise_file_limit() -> int:
    """Raise this process's soft limit of open files as far as the hard limit allows; child processes inherit it.

    Returns:
        The limit.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_FILE_LIMIT if hard == resource.RLIM_INFINITY else min(hard, MAX_FILE_LIMIT)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return soft
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (ValueError, OSError):  # macOS reports a hard limit that it does not grant
        return soft
    return wanted


class SpoolReader:
    """Read batches from all workers' files of one kind.

    On a cluster each worker of each share leaves a file; at most half of the process's limit of open files is open
    at a time, the most recently read ones.
    """

    def __init__(self, directory: Path, *, name: str) -> None:
        self._directory, self._name = directory, name
        self._descriptors: OrderedDict[str, int] = OrderedDict()
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self._max_open = MAX_OPEN_FILES
        if limit != resource.RLIM_INFINITY:
            self._max_open = max(MIN_OPEN_FILES, min(MAX_OPEN_FILES, limit // 2))

    def read(self, blob_ref: BlobRef) -> bytes:
        """Read a batch and verify its checksum.

        Raises:
            PreparationError: the file is damaged or cannot be opened.
        """
        data = self.read_part(blob_ref, 0, blob_ref.length)
        if zlib.crc32(data) != blob_ref.checksum:
            file = _spool_file(self._directory, self._name, blob_ref.spool)
            raise PreparationError(
                f"{file}: the file is damaged at byte {blob_ref.offset}. Remove {file.parent} and rerun the command."
            )
        return data

    def read_part(self, blob_ref: BlobRef, start: int, length: int) -> bytes:
        """Read a part of a batch's bytes, unverified."""
        return os.pread(self._open(blob_ref.spool), length, blob_ref.offset + start)

    def _open(self, spool: str) -> int:
        if spool in self._descriptors:
            self._descriptors.move_to_end(spool)
            return self._descriptors[spool]
        if len(self._descriptors) >= self._max_open:
            self._close_oldest()
        file = _spool_file(self._directory, self._name, spool)
        while True:
            try:
                self._descriptors[spool] = os.open(file, os.O_RDONLY)
                return self._descriptors[spool]
            except OSError as error:
                # Other open files of the process leave less than half of the limit.
                if error.errno in (errno.EMFILE, errno.ENFILE) and self._descriptors:
                    self._close_oldest()
                    continue
                raise PreparationError(f"{file}: cannot read the file: {error.strerror or error}") from error

    def _close_oldest(self) -> None:
        _, descriptor = self._descriptors.popitem(last=False)
        os.close(descriptor)

    def __enter__(self) -> "SpoolReader":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self._descriptors:
            self._close_oldest()


def holds_blob(directory: Path, blob_ref: BlobRef, *, name: str) -> bool:
    """Return whether a spool is long enough to hold a batch; after a power cut it may not be."""
    try:
        return os.stat(_spool_file(directory, name, blob_ref.spool)).st_size >= blob_ref.offset + blob_ref.length
    except FileNotFoundError:
        return blob_ref == BlobRef.empty()


def to_plain_tuples(documents: list[CleanDocument]) -> list[tuple[Any, ...]]:
    """Convert documents for spooling: plain tuples take half the bytes of named ones."""
    return [tuple(document) for document in documents]


def read_batch(directory: Path, blob_ref: BlobRef) -> list[CleanDocument]:
    """Read a batch of documents. The files are this program's own, written for this preparation."""
    if blob_ref == BlobRef.empty():
        return []
    with SpoolReader(directory, name=DOCUMENTS_NAME) as reader:
        return [CleanDocument(*values) for values in pickle.loads(reader.read(blob_ref))]


class SpooledOutcomes(list[DroppedRecord]):
    """A ledger's dropped and failed records: the last few in memory, the others spooled to disk."""

    MAX_IN_MEMORY = 4096

    def __init__(self, writer: SpoolWriter) -> None:
        super().__init__()
        self._writer = writer
        self._refs: list[BlobRef] = []

    def append(self, outcome: DroppedRecord) -> None:
        """Add a record."""
        super().append(outcome)
        if len(self) >= self.MAX_IN_MEMORY:
            self._write()

    def take(self) -> tuple[BlobRef, ...]:
        """Return references to all records that were added since the last call."""
        if self:
            self._write()
        refs, self._refs = tuple(self._refs), []
        return refs

    def _write(self) -> None:
        self._refs.append(self._writer.append([tuple(outcome) for outcome in self]))
        self.clear()


def read_outcomes(directory: Path, refs: tuple[BlobRef, ...]) -> Iterator[DroppedRecord]:
    """Read spooled records, in their order."""
    with SpoolReader(directory, name=OUTCOMES_NAME) as reader:
        for blob_ref in refs:
            yield from (DroppedRecord(*values) for values in pickle.loads(reader.read(blob_ref)))


def _spool_file(directory: Path, name: str, spool: str) -> Path:
    return directory / f"{name}_{spool}.spool"
