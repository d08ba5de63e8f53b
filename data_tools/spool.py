"""Cleaned documents on their way through a preparation: each worker appends batches to its own file."""

import os
import pickle
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

DOCUMENTS_NAME = "documents"


class CleanDocument(NamedTuple):
    """A document that is ready to be tokenized, with its origin in its input file."""

    record: int
    offset: int | None
    id: str
    url: str
    title: str
    text: str


class SpoolPlace(NamedTuple):
    """Where a batch lies."""

    worker: int
    offset: int
    length: int


class SpoolWriter:
    """One worker's file of batches of one kind."""

    def __init__(self, directory: Path, *, worker: int, name: str = DOCUMENTS_NAME) -> None:
        self._worker = worker
        # Open as long as the worker lives.
        self._stream = open(_spool_file(directory, name, worker), "wb")  # noqa: SIM115
        self._offset = 0

    def append(self, documents: list[CleanDocument]) -> SpoolPlace:
        """Write a batch; others can read it when this returns."""
        # Plain tuples take half the bytes of named ones.
        return self.append_bytes(pickle.dumps([tuple(document) for document in documents], protocol=5))

    def append_bytes(self, data: bytes) -> SpoolPlace:
        """Write whatever a batch's bytes are."""
        self._stream.write(data)
        self._stream.flush()
        place = SpoolPlace(self._worker, self._offset, len(data))
        self._offset += len(data)
        return place


class SpoolReader:
    """Reads pieces of all workers' files of one kind; each file is opened once."""

    def __init__(self, directory: Path, *, name: str) -> None:
        self._directory, self._name = directory, name
        self._descriptors: dict[int, int] = {}

    def read(self, place: SpoolPlace) -> bytes:
        """The bytes at a place."""
        if place.worker not in self._descriptors:
            self._descriptors[place.worker] = os.open(
                _spool_file(self._directory, self._name, place.worker), os.O_RDONLY
            )
        return os.pread(self._descriptors[place.worker], place.length, place.offset)

    def __enter__(self) -> "SpoolReader":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for descriptor in self._descriptors.values():
            os.close(descriptor)


def read_batch(directory: Path, place: SpoolPlace) -> list[CleanDocument]:
    """Read a batch back. The files are this program's own, written by the same run."""
    with open(_spool_file(directory, DOCUMENTS_NAME, place.worker), "rb") as stream:
        stream.seek(place.offset)
        return [CleanDocument(*values) for values in pickle.loads(stream.read(place.length))]


def _spool_file(directory: Path, name: str, worker: int) -> Path:
    return directory / f"{name}_{worker:04d}.spool"
