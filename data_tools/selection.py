"""Second stage: decide from the hashes alone which documents are duplicates, held out, or read by the tokenizer."""

from enum import IntEnum
from pathlib import Path

import numpy as np

from data_tools.collection import Collection
from data_tools.config import NearDuplicatesConfig
from data_tools.near_duplicates import find_clusters, read_bands


class Fate(IntEnum):
    """Where a cleaned document goes."""

    TRAIN = 0
    VALIDATION = 1
    DUPLICATE = 2
    NEAR_DUPLICATE = 3


SPLITS = {"train": Fate.TRAIN, "validation": Fate.VALIDATION}


def choose_firsts(collection: Collection, *, config: NearDuplicatesConfig, directory: Path) -> np.ndarray | None:
    """For each document the first of those that are almost equal to it; None when near duplicates may stay.

    Args:
        directory: where the workers left the documents' MinHash keys.
    """
    if not config.is_enabled:
        return None
    count = len(collection.hashes)
    places = [(b.keys_place, b.first_document, b.num_documents) for b in collection.batches if b.keys_place]
    return find_clusters(
        read_bands(directory, places, num_bands=config.num_bands, num_documents=count), num_documents=count
    )


def choose_fates(collection: Collection, *, drop_duplicates: bool, firsts: np.ndarray | None = None) -> np.ndarray:
    """Give every document its fate; of equal texts, and of near duplicates, the first in input order is kept.

    Args:
        firsts: [n] number of the first document of each one's cluster of near duplicates.
    Returns:
        [n] uint8 of `Fate`.
    """
    fates = np.where(collection.is_validation, Fate.VALIDATION, Fate.TRAIN).astype(np.uint8)
    if firsts is not None:
        fates[firsts != np.arange(len(fates))] = Fate.NEAR_DUPLICATE
    if drop_duplicates and len(fates):
        halves = np.ascontiguousarray(collection.hashes).view("<u8")
        order = np.lexsort((halves[:, 1], halves[:, 0]))  # stable: equal texts stay in input order
        sorted_halves = halves[order]
        is_repeated = np.zeros(len(order), np.bool_)
        is_repeated[1:] = np.all(sorted_halves[1:] == sorted_halves[:-1], axis=1)
        fates[order[is_repeated]] = Fate.DUPLICATE
    return fates


def choose_sample(collection: Collection, fates: np.ndarray, *, sample_characters: int) -> np.ndarray:
    """Choose whole training documents of at most so many characters, all when they fit; by their hashes, so at random.

    Returns:
        [n] bool; at least one document where there is any.
    """
    is_train = fates == Fate.TRAIN
    characters = collection.num_characters.astype(np.int64)
    if characters[is_train].sum() <= sample_characters:
        return is_train
    candidates = np.flatnonzero(is_train)
    # The last half of the hash: the order of the first half is the order of nothing else either, but keep them apart.
    keys = np.ascontiguousarray(collection.hashes).view("<u8")[candidates, 1]
    candidates = candidates[np.argsort(keys, kind="stable")]
    fits = np.cumsum(characters[candidates]) <= sample_characters
    fits[0] = True
    chosen = np.zeros(len(fates), np.bool_)
    chosen[candidates[fits]] = True
    return chosen
