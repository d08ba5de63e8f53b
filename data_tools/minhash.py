"""MinHash: a text's band keys, of which two texts share one the more likely the more of their n-grams they share."""

import numpy as np

from data_tools.config import NearDuplicatesConfig
from data_tools.ngrams import hash_ngrams, hash_tokens, mix

CHUNK_NGRAMS = 512
"""112 functions of so many n-grams take 458 KB, which stays in a core's own cache."""
KEY_BYTES = 8
_FIRST_COUNTER = 0x5851F42D4C957F2D
_STEP = np.uint64(0x9E3779B97F4A7C15)
_LARGEST = np.uint64(0xFFFFFFFFFFFFFFFF)


def compute_candidate_probability(similarity: float, *, num_bands: int, num_rows: int) -> float:
    """The S-curve: how likely two texts of a Jaccard similarity share a band key."""
    return float(1.0 - (1.0 - similarity**num_rows) ** num_bands)


class MinHasher:
    """Computes band keys; equal settings give equal keys in every process."""

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
        """Band keys of a text.

        Returns:
            [num_bands] uint64.
        """
        tokens = hash_tokens(text)
        n = self._config.ngram_characters if tokens.is_unspaced else self._config.ngram_words
        ngrams = hash_ngrams(tokens.hashes, n=n)
        if not len(ngrams):
            # Nothing but punctuation: alike only where it is equal.
            ngrams = mix(np.frombuffer(text.encode("utf-32-le"), np.uint32).astype(np.uint64))
            ngrams = hash_ngrams(ngrams, n=len(ngrams))
        signature = self.compute_signature(ngrams).reshape(self.num_bands, -1)
        keys = (signature * self._row_factors).sum(axis=1, dtype=np.uint64)
        return mix(keys + np.arange(self.num_bands, dtype=np.uint64) * _STEP)

    def compute_signature(self, ngrams: np.ndarray) -> np.ndarray:
        """The smallest value of each hash function over a set of n-grams.

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
