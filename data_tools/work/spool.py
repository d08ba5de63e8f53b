"""Batches on their way through a preparation: each worker process appends them to files of its own.

A spool's name is never used twice, so the files of a killed run stay as they are, and what a journal (journal.py) says
of them stays true.
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
"""Files that a reader holds open, whatever the limit of the process is."""
MAX_FILE_LIMIT = 1 << 16
"""What no preparation needs more of; some systems allow 2^30, through which some programs count."""


class CleanDocument(NamedTuple):
    """A document that is ready to be tokenized, with its origin in its input file."""

    record: int
    offset: int | None
    id: str
    url: str
    title: str
    text: str
    language: str = ""


class BlobRef(NamedTuple):
    """Where a batch lies."""

    spool: str
    """Which worker's files."""
    offset: int
    length: int
    checksum: int
    """CRC-32 of the bytes."""


NOWHERE = BlobRef("", 0, 0, 0)
"""Where a batch without documents lies."""


class SpoolWriter:
    """One worker's file of batches of one kind.

    Args:
        spool: a name that no other process has or had.
        name: what is in it.
    """

    def __init__(self, directory: Path, *, spool: str, name: str = DOCUMENTS_NAME) -> None:
        self._spool = spool
        self._path = _spool_file(directory, name, spool)
        with self._told_of_errors():
            # Open as long as the worker lives.
            self._stream = open(self._path, "xb")  # noqa: SIM115
        self._offset = 0

    def append(self, value: Any) -> BlobRef:
        """Pickle a batch and write it; others can read it when this returns.

        Raises:
            PreparationError: the disk is full, or does not take it.
        """
        return self.append_bytes(pickle.dumps(value, protocol=5))

    def append_bytes(self, data: bytes) -> BlobRef:
        """Write whatever a batch's bytes are."""
        with self._told_of_errors():
            self._stream.write(data)
            self._stream.flush()
        place = BlobRef(self._spool, self._offset, len(data), zlib.crc32(data))
        self._offset += len(data)
        return place

    @contextmanager
    def _told_of_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise PreparationError(f"{self._path} cannot be written: {error.strerror or error}") from error


def raise_file_limit() -> int:
    """Raise this process's soft limit of open files, which its children inherit, as far as the hard one allows.

    Returns:
        The limit.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_FILE_LIMIT if hard == resource.RLIM_INFINITY else min(hard, MAX_FILE_LIMIT)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return soft
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (ValueError, OSError):  # macOS names a hard limit that it does not grant
        return soft
    return wanted


class SpoolReader:
    """Reads batches from all workers' files of one kind.

    On a cluster each worker of each share has left a file; at most half of the process's limit of open files are open
    at a time, those that were read last.
    """

    def __init__(self, directory: Path, *, name: str) -> None:
        self._directory, self._name = directory, name
        self._descriptors: OrderedDict[str, int] = OrderedDict()
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self._max_open = MAX_OPEN_FILES
        if limit != resource.RLIM_INFINITY:
            self._max_open = max(MIN_OPEN_FILES, min(MAX_OPEN_FILES, limit // 2))

    def read(self, place: BlobRef) -> bytes:
        """The bytes at a place.

        Raises:
            PreparationError: they are not those that were written there, or the file cannot be opened.
        """
        data = self.read_part(place, 0, place.length)
        if zlib.crc32(data) != place.checksum:
            file = _spool_file(self._directory, self._name, place.spool)
            raise PreparationError(f"{file} is damaged at byte {place.offset}: remove {file.parent} and begin anew")
        return data

    def read_part(self, place: BlobRef, start: int, length: int) -> bytes:
        """Some of the bytes at a place, unverified."""
        return os.pread(self._open(place.spool), length, place.offset + start)

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
                # Whatever else the process has open leaves less room than half of the limit.
                if error.errno in (errno.EMFILE, errno.ENFILE) and self._descriptors:
                    self._close_oldest()
                    continue
                raise PreparationError(f"{file} cannot be read: {error.strerror or error}") from error

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


def holds_place(directory: Path, place: BlobRef, *, name: str) -> bool:
    """Whether a spool is long enough to hold a place; after a power cut it may not be."""
    try:
        return os.stat(_spool_file(directory, name, place.spool)).st_size >= place.offset + place.length
    except FileNotFoundError:
        return place == NOWHERE


def pack_clean_documents(documents: list[CleanDocument]) -> list[tuple[Any, ...]]:
    """Documents as they are spooled: plain tuples take half the bytes of named ones."""
    return [tuple(document) for document in documents]


def read_batch(directory: Path, place: BlobRef) -> list[CleanDocument]:
    """Read a batch of documents back. The files are this program's own, written for this preparation."""
    if place == NOWHERE:
        return []
    with SpoolReader(directory, name=DOCUMENTS_NAME) as reader:
        return [CleanDocument(*values) for values in pickle.loads(reader.read(place))]


class SpooledOutcomes(list[DroppedRecord]):
    """A ledger's outcomes, of which only the last few are in memory: each time they are many, they go to the disk."""

    MAX_IN_MEMORY = 4096

    def __init__(self, writer: SpoolWriter) -> None:
        super().__init__()
        self._writer = writer
        self._places: list[BlobRef] = []

    def append(self, outcome: DroppedRecord) -> None:
        """Add one."""
        super().append(outcome)
        if len(self) >= self.MAX_IN_MEMORY:
            self._write()

    def take(self) -> tuple[BlobRef, ...]:
        """Where all lie that were added since the last time."""
        if self:
            self._write()
        places, self._places = tuple(self._places), []
        return places

    def _write(self) -> None:
        self._places.append(self._writer.append([tuple(outcome) for outcome in self]))
        self.clear()


def read_outcomes(directory: Path, places: tuple[BlobRef, ...]) -> Iterator[DroppedRecord]:
    """Read outcomes back, in their order."""
    with SpoolReader(directory, name=OUTCOMES_NAME) as reader:
        for place in places:
            yield from (DroppedRecord(*values) for values in pickle.loads(reader.read(place)))


def _spool_file(directory: Path, name: str, spool: str) -> Path:
    return directory / f"{name}_{spool}.spool"
