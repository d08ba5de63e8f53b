"""The stage `decide`: from hashes alone, mark duplicates and repeated lines, and split training from validation."""

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
    """The split of a cleaned document, or the reason for which it is dropped."""

    TRAIN = 0
    VALIDATION = 1
    DUPLICATE = 2
    NEAR_DUPLICATE = 3


SPLITS = {"train": Decision.TRAIN, "validation": Decision.VALIDATION}


@dataclass(frozen=True, kw_only=True)
class RepeatedLines:
    """The lines that are removed."""

    bits: np.ndarray
    """[all bytes] uint8: a bit per line, each batch's padded to whole bytes."""
    ends: np.ndarray
    """[number of batches] int64: end of each batch's bytes."""

    def of_batch(self, number: int) -> np.ndarray:
        """Return a batch's bits, [bytes of the batch] uint8."""
        return self.bits[self.ends[number - 1] if number else 0 : self.ends[number]]


@dataclass(frozen=True, kw_only=True)
class Decisions:
    """The decision about every document of a corpus."""

    decisions: np.ndarray
    """[n] uint8 of `Decision`."""
    kept_document: np.ndarray | None
    """[n] int64: number of the document that is kept instead of each near duplicate; None where they are not
    searched for."""
    repeated_lines: RepeatedLines | None
    """None where repeated lines are not searched for."""

    def save(self, directory: Path) -> None:
        """Write the decisions into a directory."""
        np.save(directory / "decisions.npy", self.decisions)
        if self.kept_document is not None:
            np.save(directory / "kept_document.npy", self.kept_document)
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
        kept_document = directory / "kept_document.npy"
        return cls(
            decisions=load_array(directory / "decisions.npy"),
            kept_document=load_array(kept_document) if kept_document.exists() else None,
            repeated_lines=lines,
        )


def deduplicate_and_split(corpus: Corpus, *, config: DataPrepConfig, directory: Path) -> Decisions:
    """Decide about every document.

    Args:
        directory: of the workers' spools of MinHash keys and line hashes.
    """
    kept_document = find_kept_documents(corpus, config=config.near_duplicates, directory=directory)
    decisions = decide(corpus, drop_duplicates=config.cleaning.drop_duplicates, kept_document=kept_document)
    lines = None
    if config.line_duplicates.is_enabled:
        is_kept = np.isin(decisions, list(SPLITS.values()))
        with_lines = [
            (number, BatchLines(blob_ref=batch.lines_ref, is_kept=is_kept[batch.documents]))
            for number, batch in enumerate(corpus.batches)
            if batch.lines_ref is not None
        ]
        bits = find_repeated_lines(directory, [batch for _, batch in with_lines])
        sizes = np.zeros(len(corpus.batches), np.int64)
        sizes[[number for number, _ in with_lines]] = [len(each) for each in bits]
        lines = RepeatedLines(bits=np.concatenate([np.empty(0, np.uint8), *bits]), ends=np.cumsum(sizes))
    return Decisions(decisions=decisions, kept_document=kept_document, repeated_lines=lines)


def find_kept_documents(corpus: Corpus, *, config: NearDuplicatesConfig, directory: Path) -> np.ndarray | None:
    """Find the first document of each one's cluster of near duplicates; None when near duplicates are kept.

    Args:
        directory: of the workers' spools of MinHash keys.
    """
    if not config.is_enabled:
        return None
    count = len(corpus.hashes)
    refs = [(b.keys_ref, b.first_document, b.num_documents) for b in corpus.batches if b.keys_ref]
    return find_clusters(
        read_bands(directory, refs, num_bands=config.num_bands, num_documents=count), num_documents=count
    )


def decide(corpus: Corpus, *, drop_duplicates: bool, kept_document: np.ndarray | None = None) -> np.ndarray:
    """Decide about every document; of equal texts, and of near duplicates, the first in input order is kept.

    Args:
        kept_document: [n] number of the first document of each one's cluster of near duplicates.
    Returns:
        [n] uint8 of `Decision`.
    """
    decisions = np.where(corpus.is_validation, Decision.VALIDATION, Decision.TRAIN).astype(np.uint8)
    if kept_document is not None:
        decisions[kept_document != np.arange(len(decisions))] = Decision.NEAR_DUPLICATE
    if drop_duplicates and len(decisions):
        halves = np.ascontiguousarray(corpus.hashes).view("<u8")
        order = np.lexsort((halves[:, 1], halves[:, 0]))  # stable: equal texts stay in input order
        sorted_halves = halves[order]
        is_repeated = np.zeros(len(order), np.bool_)
        is_repeated[1:] = np.all(sorted_halves[1:] == sorted_halves[:-1], axis=1)
        decisions[order[is_repeated]] = Decision.DUPLICATE
    return decisions
