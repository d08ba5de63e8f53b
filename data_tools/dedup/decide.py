"""Second stage: decide from hashes alone which documents are duplicates, held out, or read by the tokenizer, and which
lines go."""

from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

import numpy as np

from data_tools.config.filtering import NearDuplicatesConfig
from data_tools.config.schema import DataPrepConfig
from data_tools.dedup.corpus import Corpus, load_array
from data_tools.dedup.lines import BatchLines, find_repeated_lines
from data_tools.dedup.minhash import find_clusters, read_bands


class Decision(IntEnum):
    """Where a cleaned document goes."""

    TRAIN = 0
    VALIDATION = 1
    DUPLICATE = 2
    NEAR_DUPLICATE = 3


SPLITS = {"train": Decision.TRAIN, "validation": Decision.VALIDATION}


@dataclass(frozen=True, kw_only=True)
class RepeatedLines:
    """The lines that are removed."""

    bits: np.ndarray
    """[all bytes] uint8: a bit per line, each batch's filled up to whole bytes."""
    ends: np.ndarray
    """[number of batches] int64: behind each batch's last byte."""

    def of_batch(self, number: int) -> np.ndarray:
        """[bytes of a batch] uint8."""
        return self.bits[self.ends[number - 1] if number else 0 : self.ends[number]]


@dataclass(frozen=True, kw_only=True)
class Decisions:
    """What becomes of each document."""

    fates: np.ndarray
    """[n] uint8 of `Fate`."""
    firsts: np.ndarray | None
    """[n] int64: number of the document that is kept instead of each near duplicate; None where they may stay."""
    repeated_lines: RepeatedLines | None
    """None where they may stay."""

    def save(self, directory: Path) -> None:
        """Write it into a directory."""
        np.save(directory / "fates.npy", self.fates)
        if self.firsts is not None:
            np.save(directory / "firsts.npy", self.firsts)
        if self.repeated_lines is not None:
            np.save(directory / "line_bits.npy", self.repeated_lines.bits)
            np.save(directory / "line_ends.npy", self.repeated_lines.ends)

    @classmethod
    def load(cls, directory: Path) -> "Decisions":
        """Open what `save` wrote."""
        lines = None
        if (directory / "line_ends.npy").exists():
            bits, ends = (load_array(directory / name) for name in ("line_bits.npy", "line_ends.npy"))
            lines = RepeatedLines(bits=bits, ends=ends)
        firsts = directory / "firsts.npy"
        return cls(
            fates=load_array(directory / "fates.npy"),
            firsts=load_array(firsts) if firsts.exists() else None,
            repeated_lines=lines,
        )


def deduplicate_and_split(collection: Corpus, *, config: DataPrepConfig, directory: Path) -> Decisions:
    """Decide about every document.

    Args:
        directory: where the workers left the documents' MinHash keys and the hashes of their lines.
    """
    firsts = choose_firsts(collection, config=config.near_duplicates, directory=directory)
    fates = choose_fates(collection, drop_duplicates=config.cleaning.drop_duplicates, firsts=firsts)
    lines = None
    if config.line_duplicates.is_enabled:
        is_kept = np.isin(fates, list(SPLITS.values()))
        with_lines = [
            (number, BatchLines(place=batch.lines_place, is_kept=is_kept[batch.documents]))
            for number, batch in enumerate(collection.batches)
            if batch.lines_place is not None
        ]
        bits = find_repeated_lines(directory, [batch for _, batch in with_lines])
        sizes = np.zeros(len(collection.batches), np.int64)
        sizes[[number for number, _ in with_lines]] = [len(each) for each in bits]
        lines = RepeatedLines(bits=np.concatenate([np.empty(0, np.uint8), *bits]), ends=np.cumsum(sizes))
    return Decisions(fates=fates, firsts=firsts, repeated_lines=lines)


def choose_firsts(collection: Corpus, *, config: NearDuplicatesConfig, directory: Path) -> np.ndarray | None:
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


def choose_fates(collection: Corpus, *, drop_duplicates: bool, firsts: np.ndarray | None = None) -> np.ndarray:
    """Give every document its fate; of equal texts, and of near duplicates, the first in input order is kept.

    Args:
        firsts: [n] number of the first document of each one's cluster of near duplicates.
    Returns:
        [n] uint8 of `Decision`.
    """
    fates = np.where(collection.is_validation, Decision.VALIDATION, Decision.TRAIN).astype(np.uint8)
    if firsts is not None:
        fates[firsts != np.arange(len(fates))] = Decision.NEAR_DUPLICATE
    if drop_duplicates and len(fates):
        halves = np.ascontiguousarray(collection.hashes).view("<u8")
        order = np.lexsort((halves[:, 1], halves[:, 0]))  # stable: equal texts stay in input order
        sorted_halves = halves[order]
        is_repeated = np.zeros(len(order), np.bool_)
        is_repeated[1:] = np.all(sorted_halves[1:] == sorted_halves[:-1], axis=1)
        fates[order[is_repeated]] = Decision.DUPLICATE
    return fates
