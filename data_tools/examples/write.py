"""Write packed examples as shards: rows of tokens, their labels, and token types where the model has them."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_tools.examples.spool import ExampleSpool
from trireme.examples.rows import Expected, RowFault, check_rows
from trireme.shards.examples import (
    LABELS_SUFFIX,
    NO_LABEL,
    TOKEN_TYPES_SUFFIX,
    ExamplesRecord,
    encode_labels,
)
from trireme.shards.manifest import MANIFEST_SUFFIX
from trireme.shards.questions import QUESTIONS_SUFFIX
from trireme.shards.shard import ShardWriter, shard_file, token_dtype
from trireme.tokenizer.tokenizer import Tokenizer

BATCH_ROWS = 256
"""Rows that are built, checked and written at a time."""
SUFFIXES = (
    ".bin",
    ".idx",
    *(f"{kind}{end}" for kind in (LABELS_SUFFIX, TOKEN_TYPES_SUFFIX) for end in (".bin", ".idx")),
    QUESTIONS_SUFFIX,
    MANIFEST_SUFFIX,
)
"""Every file of a shard of examples."""


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Hold a batch of rows, each array [n, seq_length]."""

    tokens: np.ndarray
    codes: np.ndarray
    """int32, of the shard of labels."""
    token_types: np.ndarray
    expected: list[list[Expected]]
    """What the labels of each row's documents must say."""


class RowWriter:
    """Build rows, check them, and write them under temporary names.

    `with RowWriter(...) as writer:` removes what was written when the block ends without `commit`.

    Args:
        prefix: path without .bin and .idx.
        record: what the rows are.
    """

    def __init__(self, prefix: Path, *, record: ExamplesRecord, tokenizer: Tokenizer, has_token_types: bool) -> None:
        self._record, self._tokenizer = record, tokenizer
        self._stack = ExitStack()
        self._writers = {"": ShardWriter(prefix, dtype=token_dtype(tokenizer.vocab_size))}
        self._writers[LABELS_SUFFIX] = ShardWriter(
            shard_file(prefix, LABELS_SUFFIX), dtype=np.int32, allow_negative=True
        )
        if has_token_types:
            self._writers[TOKEN_TYPES_SUFFIX] = ShardWriter(shard_file(prefix, TOKEN_TYPES_SUFFIX), dtype=np.uint8)
        for writer in self._writers.values():
            self._stack.enter_context(writer)

    @property
    def num_rows(self) -> int:
        """Return the number of rows written."""
        return self._writers[""].num_documents

    @property
    def num_tokens(self) -> int:
        """Return the number of tokens written."""
        return self._writers[""].num_tokens

    @property
    def dtype(self) -> np.dtype[Any]:
        """Return the integer type of the tokens."""
        return self._writers[""].dtype

    def add(self, rows: Rows) -> list[RowFault]:
        """Append rows; return what is wrong with them."""
        faults = check_rows(
            rows.tokens,
            rows.codes,
            record=self._record,
            tokenizer=self._tokenizer,
            expected=rows.expected,
            first_row=self.num_rows,
        )
        for number in range(len(rows.tokens)):
            self._writers[""].add_document(rows.tokens[number])
            self._writers[LABELS_SUFFIX].add_document(rows.codes[number])
            if TOKEN_TYPES_SUFFIX in self._writers:
                self._writers[TOKEN_TYPES_SUFFIX].add_document(rows.token_types[number])
        return faults

    def commit(self) -> dict[str, dict[str, Any]]:
        """Give the files their names; until a manifest is written, the shard is incomplete.

        Returns:
            The files' records for the manifest.
        """
        files = {}
        for kind, writer in reversed(self._writers.items()):
            files.update({f"{kind}{suffix}": entry for suffix, entry in writer.commit().items()})
        return files

    def __enter__(self) -> "RowWriter":
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()


def build_rows(
    spool: ExampleSpool, packed: Sequence[Sequence[int]], *, seq_length: int, pad_token_id: int
) -> Iterator[Rows]:
    """Yield the rows in batches.

    Args:
        packed: the units of each row.
    """
    for first in range(0, len(packed), BATCH_ROWS):
        batch = packed[first : first + BATCH_ROWS]
        tokens = np.full((len(batch), seq_length), pad_token_id, np.int64)
        labels = np.full(tokens.shape, NO_LABEL, np.int64)
        starts = np.zeros(tokens.shape, np.bool_)
        types = np.zeros(tokens.shape, np.uint8)
        expected: list[list[Expected]] = []
        for number, units in enumerate(batch):
            place = 0
            expected.append([])
            for document in (document for unit in units for document in spool.documents_of(unit)):
                values = spool.read(document)
                inside = slice(place, place + len(values[0]))
                tokens[number, inside], labels[number, inside], types[number, inside] = values
                starts[number, place] = True
                expected[-1].append(spool.expected(document))
                place = inside.stop
            if place < seq_length:
                starts[number, place] = True
        codes = encode_labels(labels, starts=starts)
        yield Rows(tokens=tokens, codes=codes, token_types=types, expected=expected)
