"""What reading gave: all cleaned documents in input order, as arrays of what decides about them."""

import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_tools.ledger import FileLedger
from data_tools.read_state import FileState
from data_tools.reading import TEXT_HASH_BYTES, BatchResult
from data_tools.spool import NOWHERE, SpoolPlace

_ARRAYS = ("hashes", "is_validation", "num_characters", "language_codes")
_LISTS = ("batches", "languages", "ledgers")


@dataclass(frozen=True, kw_only=True)
class SpooledBatch:
    """Documents of one file that follow each other."""

    file: int
    place: SpoolPlace
    keys_place: SpoolPlace | None
    """Where its MinHash keys lie; None when near duplicates may stay."""
    lines_place: SpoolPlace | None
    """Where its lines' hashes lie; None when repeated lines may stay."""
    outcomes: tuple[SpoolPlace, ...]
    """Where the outcomes lie of records that were not kept, from behind the batch before to its own last record."""
    first_document: int
    """Number of its first document among all."""
    num_documents: int

    @property
    def documents(self) -> slice:
        """Where its documents stand among all."""
        return slice(self.first_document, self.first_document + self.num_documents)


@dataclass(frozen=True, kw_only=True)
class Collection:
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
    def load(cls, directory: Path) -> "Collection":
        """Open what `save` wrote; the arrays stay on disk until they are looked at."""
        with open(directory / "lists.pickle", "rb") as stream:
            lists = pickle.load(stream)
        arrays: dict[str, Any] = {name: load_array(directory / f"{name}.npy") for name in _ARRAYS}
        return cls(**arrays, **lists)


def load_array(path: Path) -> np.ndarray:
    """Map an array; an empty one, which cannot be mapped, is read."""
    array = np.lib.format.open_memmap(path, mode="r") if path.stat().st_size > 128 else np.load(path)
    return np.asarray(array)


def join_files(states: list[FileState]) -> Collection:
    """Put together what came of all files, each read to its end."""
    batches: list[SpooledBatch] = []
    results: list[BatchResult] = []
    first = 0
    for state in states:
        for number in range(len(state.results)):
            result = state.results[number]
            results.append(result)
            count = len(result.is_validation)
            outcomes = result.header.outcomes + result.outcomes
            if count or outcomes:
                batches.append(
                    SpooledBatch(
                        file=state.file.index,
                        place=result.place,
                        keys_place=result.keys_place,
                        lines_place=result.lines_place,
                        outcomes=outcomes,
                        first_document=first,
                        num_documents=count,
                    )
                )
            first += count
        if state.end is not None and state.end.outcomes:
            batches.append(
                SpooledBatch(
                    file=state.file.index,
                    place=NOWHERE,
                    keys_place=None,
                    lines_place=None,
                    outcomes=state.end.outcomes,
                    first_document=first,
                    num_documents=0,
                )
            )
    languages = sorted({language for result in results for language in result.languages})
    code_of = {language: code for code, language in enumerate(languages)}
    return Collection(
        batches=batches,
        hashes=np.frombuffer(b"".join(result.hashes for result in results), np.uint8).reshape(-1, TEXT_HASH_BYTES),
        is_validation=np.frombuffer(b"".join(result.is_validation for result in results), np.bool_),
        num_characters=np.frombuffer(b"".join(result.num_characters for result in results), np.uint32),
        language_codes=np.array([code_of[name] for result in results for name in result.languages], np.uint16),
        languages=languages,
        ledgers=[state.build_ledger() for state in states],
    )
