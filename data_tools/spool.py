"""Cleaned documents on their way through a preparation: each worker appends batches to its own file."""

import pickle
from pathlib import Path
from typing import NamedTuple


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
    """One worker's file of batches."""

    def __init__(self, directory: Path, *, worker: int) -> None:
        self._worker = worker
        self._stream = open(_spool_file(directory, worker), "wb")  # noqa: SIM115 - open as long as the worker lives
        self._offset = 0

    def append(self, documents: list[CleanDocument]) -> SpoolPlace:
        """Write a batch; others can read it when this returns."""
        # Plain tuples take half the bytes of named ones.
        data = pickle.dumps([tuple(document) for document in documents], protocol=5)
        self._stream.write(data)
        self._stream.flush()
        place = SpoolPlace(self._worker, self._offset, len(data))
        self._offset += len(data)
        return place


def read_batch(directory: Path, place: SpoolPlace) -> list[CleanDocument]:
    """Read a batch back. The files are this program's own, written by the same run."""
    with open(_spool_file(directory, place.worker), "rb") as stream:
        stream.seek(place.offset)
        return [CleanDocument(*values) for values in pickle.loads(stream.read(place.length))]


def _spool_file(directory: Path, worker: int) -> Path:
    return directory / f"documents_{worker:04d}.spool"
