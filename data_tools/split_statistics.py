"""What the documents of a split look like: counts by language, and histograms of their lengths.

n is the number of documents of a batch. Results depend on the documents alone, not on how they are cut into batches.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

BINS_PER_DECADE = 10
NUM_DECADES = 12
EDGES = np.array(
    sorted({0, *(round(10 ** (step / BINS_PER_DECADE)) for step in range(NUM_DECADES * BINS_PER_DECADE + 1))}),
    np.int64,
)
"""Bin i of a histogram holds the lengths from EDGES[i] to EDGES[i + 1] - 1; ten bins each time a length is ten times as
long, fewer below ten."""


@dataclass(kw_only=True)
class TextCounts:
    """How much text there is."""

    num_documents: int = 0
    num_tokens: int = 0
    num_characters: int = 0
    text_bytes: int = 0
    """In UTF-8."""


class LengthHistogram:
    """Counts lengths in bins that grow with them."""

    def __init__(self) -> None:
        self._counts = np.zeros(len(EDGES) - 1, np.int64)

    def add(self, lengths: np.ndarray) -> None:
        """Count lengths.

        Args:
            lengths: [n] integers, 0 or more.
        """
        bins = np.searchsorted(EDGES, lengths, side="right") - 1
        self._counts += np.bincount(bins, minlength=len(self._counts))

    def to_dict(self) -> dict[str, list[int]]:
        """Edges and counts from the first bin that holds something to the last; there is one edge more than counts."""
        filled = np.flatnonzero(self._counts)
        if not len(filled):
            return {"edges": [], "counts": []}
        first, last = int(filled[0]), int(filled[-1])
        return {"edges": EDGES[first : last + 2].tolist(), "counts": self._counts[first : last + 1].tolist()}


class SplitStatistics:
    """Accumulates the statistics of a split's documents."""

    def __init__(self) -> None:
        self._languages: dict[str, np.ndarray] = {}
        """Language -> [4] int64 in the order of `TextCounts`."""
        self._token_lengths, self._character_lengths = LengthHistogram(), LengthHistogram()

    def add(
        self,
        languages: Sequence[str],
        *,
        num_tokens: Iterable[int] | np.ndarray,
        num_characters: Iterable[int] | np.ndarray,
        num_bytes: Iterable[int] | np.ndarray,
    ) -> None:
        """Count a batch of documents, in any order.

        Args:
            languages: [n] fastText's codes; empty where nothing identified the language.
            num_tokens: [n] with the token that ends a document.
            num_characters: [n] Unicode characters of the text.
            num_bytes: [n] of the text in UTF-8.
        """
        if not len(languages):
            return
        lengths = np.stack([np.fromiter(values, np.int64) for values in (num_tokens, num_characters, num_bytes)])
        self._token_lengths.add(lengths[0])
        self._character_lengths.add(lengths[1])
        names, places = np.unique(np.asarray(languages, dtype=np.str_), return_inverse=True)
        sums = np.zeros((len(names), 4), np.int64)
        np.add.at(sums, places, np.stack([np.ones_like(lengths[0]), *lengths], axis=1))
        for name, counts in zip(names.tolist(), sums, strict=True):
            self._languages[name] = self._languages.get(name, 0) + counts

    def by_language(self) -> dict[str, TextCounts]:
        """Language -> what there is of it, in the order of the codes."""
        return {
            name: TextCounts(
                num_documents=counts[0], num_tokens=counts[1], num_characters=counts[2], text_bytes=counts[3]
            )
            for name, counts in sorted((name, counts.tolist()) for name, counts in self._languages.items())
        }

    def to_dict(self) -> dict[str, Any]:
        """What stats.json holds of it: num_characters, languages and lengths."""
        languages = self.by_language()
        return {
            "num_characters": sum(counts.num_characters for counts in languages.values()),
            "languages": {name: vars(counts) for name, counts in languages.items()},
            "lengths": {"tokens": self._token_lengths.to_dict(), "characters": self._character_lengths.to_dict()},
        }
