"""Read and write the losses of a reference model, which preference optimization keeps beside its rows."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from trireme.errors import ConfigError, Violation
from trireme.shards.shard import read_header, shard_file

_DTYPE = np.dtype("<f4")


def reference_file(prefix: str | Path, *, key: str) -> Path:
    """Return the file of the losses of the rows of PREFIX under the reference model that `key` names."""
    return shard_file(prefix, f".reference-{key}.f32")


class ReferenceLosses:
    """Read the loss of every token of rows, fp32 in the order of the rows.

    Args:
        prefixes: of the shards of rows, in order.
        key: names the reference model: 16 hex digits of its checkpoint's hash.
        seq_length: tokens of a row.
    Raises:
        ConfigError: losses are missing or of another size.
    """

    def __init__(self, prefixes: Sequence[str | Path], *, key: str, seq_length: int) -> None:
        self._files = [reference_file(prefix, key=key) for prefix in prefixes]
        self._seq_length = seq_length
        counts = [read_header(prefix).num_tokens for prefix in prefixes]
        for path, count in zip(self._files, counts, strict=True):
            size = path.stat().st_size if path.is_file() else 0
            if size != count * _DTYPE.itemsize:
                message = f"must hold the reference model's losses of {count} tokens"
                fix = "Start the run again: it computes them."
                raise ConfigError([Violation(path=str(path), value=f"{size} bytes", message=message, fix=fix)])
        self._first_row = np.cumsum([0] + [count // seq_length for count in counts])

    def read_rows(self, rows: np.ndarray, *, out: np.ndarray, rows_of_out: Sequence[int] | np.ndarray) -> None:
        """Read rows into rows of an array.

        Args:
            rows: [n] row numbers.
            out: [any, seq_length] float32.
            rows_of_out: [n] rows of out.
        """
        num_bytes = self._seq_length * _DTYPE.itemsize
        for row, target in zip(rows.tolist(), rows_of_out, strict=True):
            shard = int(np.searchsorted(self._first_row, row, side="right")) - 1
            with open(self._files[shard], "rb", buffering=0) as file:
                raw = os.pread(file.fileno(), num_bytes, (row - int(self._first_row[shard])) * num_bytes)
            out[target] = np.frombuffer(raw, dtype=_DTYPE)
