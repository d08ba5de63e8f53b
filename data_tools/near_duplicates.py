"""Clusters of nearly equal documents across the whole corpus, from the band keys that the workers left on disk.

One band is looked at at a time, so memory is some 40 bytes per document whatever the number of bands.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from data_tools.minhash import KEY_BYTES
from data_tools.spool import SpoolPlace, SpoolReader

KEYS_NAME = "minhash"


def find_clusters(bands: Iterable[np.ndarray], *, num_documents: int) -> np.ndarray:
    """Join documents that share a key in any band, directly or through others.

    Args:
        bands: for each band its keys, [num_documents] uint64.
    Returns:
        [num_documents] int64: number of the first document of each one's cluster, its own where that is itself.
    """
    firsts = np.arange(num_documents, dtype=np.int64)
    for keys in bands:
        order = np.argsort(keys, kind="stable")
        keys = keys[order]
        is_equal = keys[1:] == keys[:-1]
        _join(firsts, order[:-1][is_equal], order[1:][is_equal])
    return firsts


def read_bands(
    directory: Path, places: list[tuple[SpoolPlace, int, int]], *, num_bands: int, num_documents: int
) -> Iterator[np.ndarray]:
    """Read the keys of one band after the other.

    Args:
        places: of each batch: where its keys lie ([num_bands, its documents] uint64), its first document and how many.
    """
    with SpoolReader(directory, name=KEYS_NAME) as reader:
        for band in range(num_bands):
            keys = np.empty(num_documents, np.uint64)
            for place, first, count in places:
                size = count * KEY_BYTES
                data = reader.read_part(place, band * size, size)
                keys[first : first + count] = np.frombuffer(data, np.uint64)
            yield keys


def _join(firsts: np.ndarray, ones: np.ndarray, others: np.ndarray) -> None:
    """Join the clusters of pairs of documents in place; `firsts` names roots before and after."""
    while True:
        low, high = firsts[ones], firsts[others]
        is_apart = low != high
        if not is_apart.any():
            return
        ones, others, low, high = ones[is_apart], others[is_apart], low[is_apart], high[is_apart]
        np.minimum.at(firsts, np.maximum(low, high), np.minimum(low, high))
        while not np.array_equal(jumped := firsts[firsts], firsts):
            firsts[:] = jumped
