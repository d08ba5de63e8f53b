"""Fuzzy deduplication by MinHash: band keys of a text, and clusters of documents that share one."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from data_tools.config.filtering import NearDuplicatesConfig
from data_tools.text.ngrams import hash_ngrams, hash_tokens, mix
from data_tools.work.spool import BlobRef, SpoolReader

CHUNK_NGRAMS = 512
"""112 functions of 512 n-grams take 458 KB, which fits in a core's own cache."""
KEY_BYTES = 8
KEYS_NAME = "minhash"
_FIRST_COUNTER = 0x5851F42D4C957F2D
_STEP = np.uint64(0x9E3779B97F4A7C15)
_LARGEST = np.uint64(0xFFFFFFFFFFFFFFFF)


def compute_candidate_probability(similarity: float, *, num_bands: int, num_rows: int) -> float:
    """Compute the probability that two texts of a Jaccard similarity share a band key (the S-curve)."""
    return float(1.0 - (1.0 - similarity**num_rows) ** num_bands)


class MinHasher:
    """Compute band keys; equal settings give equal keys in every process."""

    def __init__(self, config: NearDuplicatesConfig) -> None:
        self._config = config
        self.num_bands = config.num_bands
        count = config.num_bands * config.num_rows
        drawn = mix(np.uint64(_FIRST_COUNTER) + np.arange(2 * count + config.num_rows, dtype=np.uint64) * _STEP)
        self._factors = (drawn[:count] | np.uint64(1))[:, None]
        self._offsets = drawn[count : 2 * count, None]
        self._row_factors = drawn[2 * count :] | np.uint64(1)
        self._values = np.empty((count, CHUNK_NGRAMS), np.uint64)

    def compute_keys(self, text: str) -> np.ndarray:
        """Compute the band keys of a text.

        Returns:
            [num_bands] uint64.
        """
        tokens = hash_tokens(text)
        n = self._config.ngram_characters if tokens.is_unspaced else self._config.ngram_words
        ngrams = hash_ngrams(tokens.hashes, n=n)
        if not len(ngrams):
            # Nothing but punctuation: similar only where it is equal.
            ngrams = mix(np.frombuffer(text.encode("utf-32-le"), np.uint32).astype(np.uint64))
            ngrams = hash_ngrams(ngrams, n=len(ngrams))
        signature = self.compute_signature(ngrams).reshape(self.num_bands, -1)
        keys = (signature * self._row_factors).sum(axis=1, dtype=np.uint64)
        return mix(keys + np.arange(self.num_bands, dtype=np.uint64) * _STEP)

    def compute_signature(self, ngrams: np.ndarray) -> np.ndarray:
        """Compute the smallest value of each hash function over a set of n-grams.

        Args:
            ngrams: [n] uint64; repetitions make no difference.
        Returns:
            [num_bands * num_rows] uint64.
        """
        signature = np.full(len(self._factors), _LARGEST)
        for first in range(0, len(ngrams), CHUNK_NGRAMS):
            chunk = ngrams[first : first + CHUNK_NGRAMS]
            values = self._values[:, : len(chunk)]
            np.multiply(self._factors, chunk, out=values)
            np.add(values, self._offsets, out=values)
            np.minimum(signature, values.min(axis=1), out=signature)
        return signature


def find_clusters(bands: Iterable[np.ndarray], *, num_documents: int) -> np.ndarray:
    """Cluster documents that share a key in any band, directly or through others.

    Args:
        bands: for each band its keys, [num_documents] uint64.
    Returns:
        [num_documents] int64: number of the first document of each one's cluster.
    """
    firsts = np.arange(num_documents, dtype=np.int64)
    for keys in bands:
        order = np.argsort(keys, kind="stable")
        keys = keys[order]
        is_equal = keys[1:] == keys[:-1]
        _join(firsts, order[:-1][is_equal], order[1:][is_equal])
    return firsts


def read_bands(
    directory: Path, refs: list[tuple[BlobRef, int, int]], *, num_bands: int, num_documents: int
) -> Iterator[np.ndarray]:
    """Yield the keys of one band after the other.

    Args:
        refs: for each batch its keys ([num_bands, its documents] uint64), first document and number of documents.
    """
    with SpoolReader(directory, name=KEYS_NAME) as reader:
        for band in range(num_bands):
            keys = np.empty(num_documents, np.uint64)
            for blob_ref, first, count in refs:
                size = count * KEY_BYTES
                data = reader.read_part(blob_ref, band * size, size)
                keys[first : first + count] = np.frombuffer(data, np.uint64)
            yield keys


def _join(firsts: np.ndarray, ones: np.ndarray, others: np.ndarray) -> None:
    """Join the clusters of pairs of documents in place; `firsts` holds roots before and after."""
    while True:
        low, high = firsts[ones], firsts[others]
        is_apart = low != high
        if not is_apart.any():
            return
        ones, others, low, high = ones[is_apart], others[is_apart], low[is_apart], high[is_apart]
        np.minimum.at(firsts, np.maximum(low, high), np.minimum(low, high))
        while not np.array_equal(jumped := firsts[firsts], firsts):
            firsts[:] = jumped
