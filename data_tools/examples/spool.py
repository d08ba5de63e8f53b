"""Keep encoded examples on disk until all are there and can be packed."""

from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from data_tools.examples.encode import Unit
from trireme.examples.rows import Expected
from trireme.shards.examples import NO_LABEL

MAX_KEPT_CHARACTERS = 1 << 26
"""Of answers that are kept in memory to be compared with the finished rows."""
CHUNK_TOKENS = 1 << 20
_NAMES = ("tokens", "labels", "token_types")
_DTYPES: tuple[np.dtype[Any], ...] = (np.dtype(np.int32), np.dtype(np.int32), np.dtype(np.uint8))


class ExampleSpool:
    """Append examples to temporary files, and read them in any order.

    Args:
        directory: an empty directory.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._streams = [(directory / name).open("wb") for name in _NAMES]
        self._maps: list[np.ndarray] = []
        self._offsets = array("q", [0])
        """First token of each document, then the end."""
        self._units = array("q", [0])
        """First document of each unit, then the end."""
        self._is_truncated = bytearray()
        self._texts: dict[int, tuple[str | None, ...]] = {}
        self._kept_characters = 0
        self.has_token_types = False

    def add(self, unit: Unit) -> None:
        """Append the documents of a unit."""
        for document in unit:
            types = np.zeros(len(document), np.uint8) if document.token_types is None else document.token_types
            self.has_token_types |= document.token_types is not None
            for stream, values, dtype in zip(
                self._streams, (document.tokens, document.labels, types), _DTYPES, strict=True
            ):
                stream.write(values.astype(dtype).tobytes())
            if document.texts and self._kept_characters < MAX_KEPT_CHARACTERS:
                self._texts[len(self._is_truncated)] = document.texts
                self._kept_characters += sum(len(text or "") for text in document.texts)
            self._is_truncated.append(document.is_truncated)
            self._offsets.append(self._offsets[-1] + len(document))
        self._units.append(len(self._is_truncated))

    def finish(self) -> None:
        """End appending."""
        for stream in self._streams:
            stream.close()
        self._maps = [
            np.memmap(self._directory / name, dtype=dtype, mode="r") if self._offsets[-1] else np.empty(0, dtype)
            for name, dtype in zip(_NAMES, _DTYPES, strict=True)
        ]

    @property
    def num_units(self) -> int:
        """Return the number of units."""
        return len(self._units) - 1

    @property
    def num_truncated(self) -> int:
        """Return the number of truncated documents."""
        return sum(self._is_truncated)

    @property
    def num_kept_texts(self) -> int:
        """Return the number of documents whose answers were kept for comparison."""
        return len(self._texts)

    @property
    def document_lengths(self) -> np.ndarray:
        """Return the tokens of each document: [num_documents] int64."""
        return np.diff(np.frombuffer(self._offsets, np.int64))

    @property
    def unit_lengths(self) -> np.ndarray:
        """Return the tokens of each unit: [num_units] int64."""
        ends = np.frombuffer(self._offsets, np.int64)[np.frombuffer(self._units, np.int64)]
        return np.diff(ends)

    def label_chunks(self) -> Iterator[np.ndarray]:
        """Yield the labels of all documents in chunks: [n] int32."""
        labels = self._maps[1]
        for first in range(0, len(labels), CHUNK_TOKENS):
            yield np.asarray(labels[first : first + CHUNK_TOKENS])

    def count_targets(self) -> np.ndarray:
        """Return the labels of each document that are targets: [num_documents] int64."""
        offsets, counts = np.frombuffer(self._offsets, np.int64), np.zeros(len(self._is_truncated), np.int64)
        first = 0
        for chunk in self.label_chunks():
            places = np.flatnonzero(chunk != NO_LABEL) + first
            counts += np.bincount(np.searchsorted(offsets, places, side="right") - 1, minlength=len(counts))
            first += len(chunk)
        return counts

    def documents_of(self, unit: int) -> range:
        """Return the numbers of a unit's documents."""
        return range(self._units[unit], self._units[unit + 1])

    def read(self, document: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the tokens, labels and token types of a document."""
        begin, end = self._offsets[document], self._offsets[document + 1]
        tokens, labels, types = (values[begin:end] for values in self._maps)
        return tokens, labels, types

    def expected(self, document: int) -> Expected:
        """Return what a document's labels must say."""
        return Expected(texts=self._texts.get(document, ()), is_truncated=bool(self._is_truncated[document]))
