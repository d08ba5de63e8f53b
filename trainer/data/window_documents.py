"""Tell which documents a window of a data set has tokens of, and which windows have tokens of a document."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trainer.data.token_dataset import TokenDataset


@dataclass(frozen=True, kw_only=True)
class DocumentPart:
    """Hold the part of a document that a window has."""

    shard: Path
    """Prefix."""
    number: int
    """Of the document in the shard, from 0."""
    first: int
    """Its first token in the window, counted in the document."""
    end: int
    """One past its last token in the window."""
    num_tokens: int
    """Of the whole document."""


class WindowDocuments:
    """Map between windows and documents of one data set; reads the shards' indexes alone.

    A window's tokens are its inputs and its last label, so that the token between two windows is in both.

    Args:
        dataset: as the run reads it.
    """

    def __init__(self, dataset: TokenDataset) -> None:
        self._dataset = dataset
        self._starts = np.cumsum([0, *(shard.num_tokens for shard in dataset.shards)], dtype=np.int64)

    @property
    def shards(self) -> Sequence[Path]:
        """Prefixes of the shards, in order."""
        return [Path(shard.prefix) for shard in self._dataset.shards]

    def documents_of(self, window: int) -> list[DocumentPart]:
        """Return the parts of documents in a window, in order."""
        first = window * self._dataset.seq_length
        end = first + self._dataset.seq_length + self._dataset.overlap
        parts: list[DocumentPart] = []
        for shard, start in zip(self._dataset.shards, self._starts[:-1].tolist(), strict=True):
            here_first, here_end = max(first - start, 0), min(end - start, shard.num_tokens)
            if here_first >= here_end:
                continue
            offsets = shard.document_offsets
            number = int(np.searchsorted(offsets, here_first, side="right")) - 1
            while number < shard.num_documents and offsets[number] < here_end:
                document_first, document_end = int(offsets[number]), int(offsets[number + 1])
                part_first, part_end = max(document_first, here_first), min(document_end, here_end)
                if part_first < part_end:
                    parts.append(
                        DocumentPart(
                            shard=Path(shard.prefix),
                            number=number,
                            first=part_first - document_first,
                            end=part_end - document_first,
                            num_tokens=document_end - document_first,
                        )
                    )
                number += 1
        return parts

    def count_documents(self, shard: int) -> int:
        """Return the number of documents of a shard of `shards`."""
        return self._dataset.shards[shard].num_documents

    def windows_of(self, shard: int, number: int) -> np.ndarray:
        """Return the windows that have tokens of a document: [n] int64, ascending; none for an empty document.

        Args:
            shard: index in `shards`.
            number: of the document, from 0.
        """
        offsets = self._dataset.shards[shard].document_offsets
        first, end = (int(self._starts[shard] + offsets[place]) for place in (number, number + 1))
        if first == end:
            return np.empty(0, dtype=np.int64)
        length, overlap = self._dataset.seq_length, self._dataset.overlap
        # The first token of a window is also the last one of the window before.
        low = max(0, (first - overlap) // length)
        high = min((end - 1) // length, self._dataset.num_windows - 1)
        return np.arange(low, high + 1, dtype=np.int64)
