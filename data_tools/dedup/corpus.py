"""The corpus that reading left: all cleaned documents in input order, as arrays of what decides about them."""

import hashlib
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_tools.ledger import FileLedger
from data_tools.work.spool import BlobRef

_ARRAYS = ("hashes", "is_validation", "num_characters", "language_codes")
_LISTS = ("batches", "languages", "ledgers")


@dataclass(frozen=True, kw_only=True)
class SpooledBatch:
    """Documents of one file that follow each other."""

    file: int
    place: BlobRef
    keys_place: BlobRef | None
    """Where its MinHash keys lie; None when near duplicates may stay."""
    lines_place: BlobRef | None
    """Where its lines' hashes lie; None when repeated lines may stay."""
    outcomes: tuple[BlobRef, ...]
    """Where the outcomes lie of records that were not kept, from behind the batch before to its own last record."""
    first_document: int
    """Number of its first document among all."""
    num_documents: int

    @property
    def documents(self) -> slice:
        """Where its documents stand among all."""
        return slice(self.first_document, self.first_document + self.num_documents)


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """All cleaned documents, in input order: where they lie, and what decides about them."""

    batches: list[SpooledBatch]
    hashes: np.ndarray
    """[n, TEXT_HASH_BYTES] uint8."""
    is_validation: np.ndarray
    """[n] bool."""
    num_characters: np.ndarray
    """[n] uint32."""
    language_codes: np.ndarray
    """[n] uint16: places in `languages`."""
    languages: list[str]
    """Sorted."""
    ledgers: list[FileLedger]
    """Per input file; nothing counts as kept yet."""

    def save(self, directory: Path) -> None:
        """Write everything into a directory."""
        for name in _ARRAYS:
            np.save(directory / f"{name}.npy", getattr(self, name))
        with open(directory / "lists.pickle", "wb") as stream:
            pickle.dump({name: getattr(self, name) for name in _LISTS}, stream, protocol=5)

    @classmethod
    def load(cls, directory: Path) -> "Corpus":
        """Open what `save` wrote; the arrays stay on disk until they are looked at."""
        with open(directory / "lists.pickle", "rb") as stream:
            lists = pickle.load(stream)
        arrays: dict[str, Any] = {name: load_array(directory / f"{name}.npy") for name in _ARRAYS}
        return cls(**arrays, **lists)


def load_array(path: Path) -> np.ndarray:
    """Map an array; an empty one, which cannot be mapped, is read."""
    array = np.lib.format.open_memmap(path, mode="r") if path.stat().st_size > 128 else np.load(path)
    return np.asarray(array)


TEXT_HASH_BYTES = 16
"""Collisions of 128 bits: at 10^12 documents, one in 10^14 preparations loses a document."""


def hash_text(text: str) -> bytes:
    """What tells texts apart: BLAKE2b-128 of the UTF-8 bytes."""
    return hashlib.blake2b(text.encode("utf-8"), digest_size=TEXT_HASH_BYTES).digest()
