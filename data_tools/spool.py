"""Cleaned documents on their way through a preparation: each worker appends batches to its own file."""

import os
import pickle
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from data_tools.ledger import Outcome

DOCUMENTS_NAME = "documents"
OUTCOMES_NAME = "outcomes"


class CleanDocument(NamedTuple):
    """A document that is ready to be tokenized, with its origin in its input file."""

    record: int
    offset: int | None
    id: str
    url: str
    title: str
    text: str
    language: str = ""


class SpoolPlace(NamedTuple):
    """Where a batch lies."""

    worker: int
    offset: int
    length: int


NOWHERE = SpoolPlace(0, 0, 0)
"""Where a batch without documents lies."""


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
    if place == NOWHERE:
        return []
    with open(_spool_file(directory, DOCUMENTS_NAME, place.worker), "rb") as stream:
        stream.seek(place.offset)
        return [CleanDocument(*values) for values in pickle.loads(stream.read(place.length))]


class SpooledOutcomes(list[Outcome]):
    """A ledger's outcomes, of which only the last few are in memory: each time they are many, they go to the disk."""

    MAX_IN_MEMORY = 4096

    def __init__(self, writer: SpoolWriter) -> None:
        super().__init__()
        self._writer = writer
        self._places: list[SpoolPlace] = []

    def append(self, outcome: Outcome) -> None:
        """Add one."""
        super().append(outcome)
        if len(self) >= self.MAX_IN_MEMORY:
            self._write()

    def take(self) -> tuple[SpoolPlace, ...]:
        """Where all lie that were added since the last time."""
        if self:
            self._write()
        places, self._places = tuple(self._places), []
        return places

    def _write(self) -> None:
        self._places.append(self._writer.append_bytes(pickle.dumps([tuple(outcome) for outcome in self], protocol=5)))
        self.clear()


def read_outcomes(directory: Path, places: tuple[SpoolPlace, ...]) -> Iterator[Outcome]:
    """Read outcomes back, in their order."""
    with SpoolReader(directory, name=OUTCOMES_NAME) as reader:
        for place in places:
            yield from (Outcome(*values) for values in pickle.loads(reader.read(place)))


def _spool_file(directory: Path, name: str, worker: int) -> Path:
    return directory / f"{name}_{worker:04d}.spool"
