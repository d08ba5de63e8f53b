"""Shuffle [0, size) by key without storing the order: a Feistel network with cycle walking.

`permute(i, size, key)` is the element at place i of the shuffled sequence. It needs no memory and no preparation
for any size, so any place of any epoch can be computed directly.

Source: Black and Rogaway, "Ciphers with Arbitrary Finite Domains" (2002), the generalised Feistel construction on
Z_rows x Z_columns; mixing function from splitmix64 (Steele, Lea and Flood, 2014).
"""

import hashlib
import math
import struct
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

NUM_ROUNDS = 8
MAX_SIZE = 1 << 62


def derive_key(*, seed: int, stream: int, epoch: int) -> npt.NDArray[np.uint64]:
    """Derive the round keys of one epoch of one data set.

    Every (seed, stream, epoch) gives an unrelated order: the keys are BLAKE2b-512 of the three as little-endian int64.

    Args:
        stream: number of the data set within the run, see `trainer.data.mixture`.
    Returns:
        [NUM_ROUNDS] uint64.
    """
    digest = hashlib.blake2b(struct.pack("<3q", seed, stream, epoch), person=b"trireme order").digest()
    return np.frombuffer(digest, dtype="<u8")


def permute(places: npt.NDArray[np.int64], *, size: int, key: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
    """Return the elements at places of the shuffled sequence; a bijection on [0, size) for every key.

    The network works on a grid of rows * columns >= size with rows = ceil(sqrt(size)), so fewer than rows of its
    values are outside [0, size); those continue along their cycle until they are inside.

    Args:
        places: integers in [0, size), any shape.
        size: 1 to 2**62.
        key: from `derive_key`.
    Returns:
        int64, the shape of places.
    Raises:
        ValueError: size or a place is out of range.
    """
    return _walk(places, size=size, step=lambda values, rows, columns: _encrypt(values, rows, columns, key))


def find_places(elements: npt.NDArray[np.int64], *, size: int, key: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
    """Return the places of elements in the shuffled sequence: the inverse of `permute`, with the same errors."""
    return _walk(elements, size=size, step=lambda values, rows, columns: _decrypt(values, rows, columns, key))


def _walk(
    numbers: npt.NDArray[np.int64],
    *,
    size: int,
    step: Callable[[npt.NDArray[np.uint64], int, int], npt.NDArray[np.uint64]],
) -> npt.NDArray[np.int64]:
    """Apply a bijection on the grid to numbers in [0, size) until all are inside again."""
    if not 1 <= size <= MAX_SIZE:
        raise ValueError(f"size {size} is not in 1 to {MAX_SIZE}")
    flat = np.asarray(numbers, dtype=np.int64).ravel()
    if flat.size and (flat.min() < 0 or flat.max() >= size):
        raise ValueError(f"places {flat.min()} to {flat.max()} are not in 0 to {size - 1}")
    rows = math.isqrt(size - 1) + 1
    columns = -(-size // rows)
    values = step(flat.astype(np.uint64), rows, columns)
    outside = np.flatnonzero(values >= np.uint64(size))
    while outside.size:
        values[outside] = step(values[outside], rows, columns)
        outside = outside[values[outside] >= np.uint64(size)]
    return values.astype(np.int64).reshape(np.shape(numbers))


def _encrypt(
    values: npt.NDArray[np.uint64], rows: int, columns: int, key: npt.NDArray[np.uint64]
) -> npt.NDArray[np.uint64]:
    """Apply all rounds; each adds a keyed hash of one half to the other, which subtraction inverts."""
    num_rows, num_columns = np.uint64(rows), np.uint64(columns)
    row, column = values // num_columns, values % num_columns
    for i in range(0, NUM_ROUNDS, 2):
        row = (row + _mix(column ^ key[i]) % num_rows) % num_rows
        column = (column + _mix(row ^ key[i + 1]) % num_columns) % num_columns
    return row * num_columns + column


def _decrypt(
    values: npt.NDArray[np.uint64], rows: int, columns: int, key: npt.NDArray[np.uint64]
) -> npt.NDArray[np.uint64]:
    """Undo all rounds of `_encrypt`, the last one first."""
    num_rows, num_columns = np.uint64(rows), np.uint64(columns)
    row, column = values // num_columns, values % num_columns
    for i in range(NUM_ROUNDS - 2, -1, -2):
        column = (column + num_columns - _mix(row ^ key[i + 1]) % num_columns) % num_columns
        row = (row + num_rows - _mix(column ^ key[i]) % num_rows) % num_rows
    return row * num_columns + column


def _mix(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Hash uint64 to uint64 (splitmix64's finalizer); array arithmetic wraps modulo 2**64, as required."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
