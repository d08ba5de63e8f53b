"""The corpus: all cleaned documents in input order, as arrays of what deduplication and splitting need."""

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
TEXT_HASH_BYTES = 16
"""Collisions of 128 bits: at 10^12 documents, one in 10^14 preparations loses a document."""


def hash_text(text: str) -> bytes:
    """Hash a text so that equal hashes mean equal texts: BLAKE2b-128 of its UTF-8 bytes."""
    return hashlib.blake2b(text.encode("utf-8"), digest_size=TEXT_HASH_BYTES).digest()


@dataclass(frozen=True, kw_only=True)
class SpooledBatch:
    """Consecutive documents of one file."""

    file: int
    blob_ref: BlobRef
    """Its documents."""
    keys_ref: BlobRef | None
    """Its MinHash keys; None when near duplicates are kept."""
    lines_ref: BlobRef | None
    """Its line hashes; None when repeated lines are kept."""
    outcomes: tuple[BlobRef, ...]
    """The dropped and failed records from after the previous batch up to its own last record."""
    first_document: int
    """Index of its first document in the corpus."""
    num_documents: int

    @property
    def documents(self) -> slice:
        """Return the range of its documents in the corpus."""
        return slice(self.first_document, self.first_document + self.num_documents)


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """All cleaned documents, in input order: references to their text, and what decisions are made from."""

    batches: list[SpooledBatch]
    hashes: np.ndarray
    """[n, TEXT_HASH_BYTES] uint8."""
    is_validation: np.ndarray
    """[n] bool."""
    num_characters: np.ndarray
    """[n] uint32."""
    language_codes: np.ndarray
    """[n] uint16: indices into `languages`."""
    languages: list[str]
    """Sorted."""
    ledgers: list[FileLedger]
    """One per input file; no document counts as kept yet."""

    def save(self, directory: Path) -> None:
        """Write the corpus into a directory."""
        for name in _ARRAYS:
            np.save(directory / f"{name}.npy", getattr(self, name))
        with open(directory / "lists.pickle", "wb") as stream:
            pickle.dump({name: getattr(self, name) for name in _LISTS}, stream, protocol=5)

    @classmethod
    def load(cls, directory: Path) -> "Corpus":
        """Open what `save` wrote; the arrays are memory-mapped."""
        with open(directory / "lists.pickle", "rb") as stream:
            lists = pickle.load(stream)
        arrays: dict[str, Any] = {name: load_array(directory / f"{name}.npy") for name in _ARRAYS}
        return cls(**arrays, **lists)


def load_array(path: Path) -> np.ndarray:
    """Memory-map an array; read an empty one, which cannot be mapped."""
    array = np.lib.format.open_memmap(path, mode="r") if path.stat().st_size > 128 else np.load(path)
    return np.asarray(array)
