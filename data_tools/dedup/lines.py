"""Line deduplication: of lines that occur in several documents of the corpus, only the first document keeps them.

Source: CCNet (Wenzek et al., 2020) compares lines regardless of case, digits and punctuation; it removes all but one
copy per shard, this module across the whole corpus.
"""

import pickle
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import numpy as np

from data_tools.work.spool import BlobRef, CleanDocument, SpoolReader, read_batch

LINES_NAME = "lines"
LINES_AT_ONCE = 1 << 26
"""Line hashes held in memory at a time, 17 bytes each; more are processed in several passes."""
_NO_LETTERS = re.compile(r"[\W_]+")
_DIGITS = re.compile(r"\d")
_TOO_SHORT = np.uint64(0)


def hash_lines(text: str, *, min_characters: int) -> np.ndarray:
    """Hash the lines of a text.

    Args:
        min_characters: lines with fewer letters and digits get 0.
    Returns:
        [number of lines] uint64. Of 10^10 different lines about three collide with another.
    """
    hashes = []
    for line in text.split("\n"):
        plain = _DIGITS.sub("0", _NO_LETTERS.sub("", line.casefold()))
        digest = blake2b(plain.encode("utf-8"), digest_size=8).digest() if len(plain) >= min_characters else b""
        hashes.append(int.from_bytes(digest, "little"))
    return np.array(hashes, np.uint64)


@dataclass(frozen=True, kw_only=True)
class BatchLines:
    """The line hashes of a batch, and which of its documents are kept."""

    blob_ref: BlobRef
    is_kept: np.ndarray
    """[its documents] bool."""


def find_repeated_lines(
    directory: Path, batches: Sequence[BatchLines], *, lines_at_once: int = LINES_AT_ONCE
) -> list[np.ndarray]:
    """Find the lines of kept documents that an earlier kept document, or an earlier line of the same one, has.

    Args:
        directory: of the spools.
        batches: in input order.
    Returns:
        For each batch [its lines] bool, packed by numpy.packbits.
    """
    if not batches:
        return []
    sizes = [sum(map(len, lines)) for _, lines in _read(directory, batches)]
    is_repeated = np.zeros(sum(sizes), np.bool_)
    num_passes = max(1, -(-len(is_repeated) // lines_at_once))
    for number in range(num_passes):
        found, places, first = [], [], 0
        for batch, lines in _read(directory, batches):
            hashes = np.concatenate(lines) if lines else np.empty(0, np.uint64)
            counts = [len(each) for each in lines]
            is_asked = np.repeat(batch.is_kept, counts) & (hashes != _TOO_SHORT)
            is_asked &= hashes % np.uint64(num_passes) == number
            found.append(hashes[is_asked])
            places.append(first + np.flatnonzero(is_asked))
            first += len(hashes)
        _mark(is_repeated, np.concatenate(found), np.concatenate(places))
    ends = np.cumsum(sizes)
    return [np.packbits(is_repeated[end - size : end]) for end, size in zip(ends, sizes, strict=True)]


def remove_lines(text: str, is_repeated: np.ndarray) -> str:
    """Remove the repeated lines of a text.

    Args:
        is_repeated: [number of lines] bool.
    """
    if not is_repeated.any():
        return text
    lines = [line for line, repeated in zip(text.split("\n"), is_repeated, strict=True) if not repeated]
    # Where a whole paragraph was removed, its blank lines are left over.
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip("\n")


def read_without_lines(directory: Path, blob_ref: BlobRef, bits: np.ndarray | None) -> list[CleanDocument]:
    """Read a batch of documents without the lines that an earlier document has.

    Args:
        bits: of the batch, from `find_repeated_lines`; None where repeated lines are kept.
    """
    documents = read_batch(directory, blob_ref)
    if bits is None:
        return documents
    is_repeated = np.unpackbits(bits).astype(np.bool_)
    changed, first = [], 0
    for document in documents:
        end = first + document.text.count("\n") + 1
        changed.append(document._replace(text=remove_lines(document.text, is_repeated[first:end])))
        first = end
    return changed


def _read(directory: Path, batches: Sequence[BatchLines]) -> Iterator[tuple[BatchLines, list[np.ndarray]]]:
    with SpoolReader(directory, name=LINES_NAME) as reader:
        for batch in batches:
            yield batch, pickle.loads(reader.read(batch.blob_ref))


def _mark(is_repeated: np.ndarray, hashes: np.ndarray, places: np.ndarray) -> None:
    order = np.argsort(hashes, kind="stable")
    is_equal = np.zeros(len(order), np.bool_)
    is_equal[1:] = hashes[order][1:] == hashes[order][:-1]
    is_repeated[places[order[is_equal]]] = True
