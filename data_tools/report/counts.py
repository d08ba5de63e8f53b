"""Count a preparation's Parquet tables for the report, row group by row group, so that memory does not grow."""

import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_tools.dedup.decide import SPLITS
from data_tools.output.stats import LengthHistogram
from data_tools.output.tables import DROPPED, FAILED, RECORD_TABLE_NAME
from trireme.shards.document_table import DOCUMENTS_SUFFIX

NUM_PARTS = 64
PART_MEMORY_BYTES = 1 << 20
"""What a part of the keys may take before it goes to the disk."""
KEY_DIGITS = 16
"""Hexadecimal digits of a text's hash that tell it from others: among 100 million texts, equal ones by chance are
expected 0.0003 times."""
NUM_LARGEST = 5


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """A kept document and the records that were dropped as its copies."""

    num_records: int
    """With the one that was kept."""
    name: str
    """Name of the kept record: URL, title or identifier."""
    file: str
    record: int


@dataclass(frozen=True, kw_only=True)
class CopyCounts:
    """Clusters of records with equal, or almost equal, texts."""

    sizes: dict[int, int]
    """Number of records, with the one that was kept -> how many clusters have so many."""
    largest: list[Cluster]


@dataclass(kw_only=True)
class TableCounts:
    """Counts of a preparation's tables."""

    documents: Counter[tuple[str, str]] = field(default_factory=Counter)
    """(split, language) -> documents."""
    tokens: Counter[tuple[str, str]] = field(default_factory=Counter)
    """(split, language) -> tokens."""
    source_tokens: Counter[str] = field(default_factory=Counter)
    token_lengths: dict[str, dict[str, list[int]]] = field(default_factory=dict)
    """Split -> histogram of tokens per document."""
    lost: Counter[tuple[str, str]] = field(default_factory=Counter)
    """(dropped or failed, language) -> records; the language is empty where nothing identified it."""
    tells_lost_languages: bool = True
    """Whether the table of records has a language column; older ones have none."""
    duplicates: CopyCounts | None = None
    """Of equal texts; None where there are none."""
    near_duplicates: CopyCounts | None = None
    """Of almost equal texts; None where there are none."""


def count_tables(output: Path) -> TableCounts:
    """Count what the tables in a preparation's directory hold; a table that is not there counts as empty."""
    counts = TableCounts()
    for split in SPLITS:
        histogram = LengthHistogram()
        for path in sorted(output.glob(f"{split}*{DOCUMENTS_SUFFIX}")):
            _count_documents(path, split, counts=counts, histogram=histogram)
        counts.token_lengths[split] = histogram.to_dict()
    ledger = output / RECORD_TABLE_NAME
    if ledger.exists():
        counts.tells_lost_languages = "language" in pq.read_schema(ledger).names
        _count_records(ledger, counts)
        counts.duplicates = _count_copies(ledger, reason="duplicate", column="text_hash")
        counts.near_duplicates = _count_copies(ledger, reason="near_duplicate", column="detail")
    return counts


def _count_documents(path: Path, split: str, *, counts: TableCounts, histogram: LengthHistogram) -> None:
    for table in _read_groups(path, ["source", "language", "num_tokens"]):
        histogram.add(table.column("num_tokens").to_numpy())
        for row in _group(table, ["language"], [("num_tokens", "sum"), ([], "count_all")]):
            counts.documents[split, row["language"]] += row["count_all"]
            counts.tokens[split, row["language"]] += row["num_tokens_sum"]
        for row in _group(table, ["source"], [("num_tokens", "sum")]):
            counts.source_tokens[row["source"]] += row["num_tokens_sum"]


def _count_records(path: Path, counts: TableCounts) -> None:
    for table in _read_groups(path, ["fate", "language"]):
        for row in _group(table, ["fate", "language"], [([], "count_all")]):
            if row["fate"] in (DROPPED, FAILED):
                counts.lost[row["fate"], row["language"]] += row["count_all"]


def _count_copies(path: Path, *, reason: str, column: str) -> CopyCounts | None:
    """Count the clusters of the records that were dropped for a reason.

    Args:
        column: ends with the hash of the text that was kept instead.
    """
    sizes: Counter[int] = Counter()
    largest: list[tuple[int, int]] = []
    with ExitStack() as stack:
        # A hash is of one part only, so each part is counted by itself.
        parts = [stack.enter_context(tempfile.SpooledTemporaryFile(PART_MEMORY_BYTES)) for _ in range(NUM_PARTS)]
        for table in _read_groups(path, ["reason", column]):
            chosen = table.filter(pc.equal(table.column("reason"), reason)).column(column)
            found = pc.struct_field(pc.extract_regex(chosen, f"(?P<key>[0-9a-f]{{{KEY_DIGITS}}})[0-9a-f]*$"), "key")
            digits = "".join(found.drop_null().to_pylist())
            keys = np.frombuffer(bytes.fromhex(digits), ">u8").astype(np.uint64)
            for part in np.unique(keys % NUM_PARTS).tolist():
                parts[part].write(keys[keys % NUM_PARTS == part].tobytes())
        for part in parts:
            part.seek(0)
            keys, num_copies = np.unique(np.frombuffer(part.read(), np.uint64), return_counts=True)
            for size, count in zip(*np.unique(num_copies + 1, return_counts=True), strict=True):
                sizes[int(size)] += int(count)
            top = np.argsort(-num_copies, kind="stable")[:NUM_LARGEST]
            largest += zip((num_copies[top] + 1).tolist(), keys[top].tolist(), strict=True)
    largest = sorted(largest, key=lambda item: (-item[0], item[1]))[:NUM_LARGEST]
    return CopyCounts(sizes=dict(sorted(sizes.items())), largest=_name_clusters(path, largest)) if sizes else None


def _name_clusters(path: Path, clusters: list[tuple[int, int]]) -> list[Cluster]:
    """Find the documents that were kept of some clusters (number of records, key), in the order of the clusters."""
    keys = {f"{key:0{KEY_DIGITS}x}": size for size, key in clusters}
    named = {}
    for table in _read_groups(path, ["file", "record", "reason", "id", "url", "title", "text_hash"]):
        kept = table.filter(pc.is_null(table.column("reason")))
        starts = pc.utf8_slice_codeunits(kept.column("text_hash"), 0, KEY_DIGITS)
        for row in kept.filter(pc.is_in(starts, value_set=pa.array(list(keys)))).to_pylist():
            name = row["url"] or row["title"] or row["id"]
            key = row["text_hash"][:KEY_DIGITS]
            named[key] = Cluster(num_records=keys[key], name=name, file=row["file"], record=row["record"])
    return [named[key] for key in keys if key in named]


def _read_groups(path: Path, columns: list[str]) -> Iterator[pa.Table]:
    """Return some columns, row group by row group; a table without languages is read as if all were empty."""
    file = pq.ParquetFile(path)
    missing = [name for name in columns if name == "language" and name not in file.schema_arrow.names]
    present = [name for name in columns if name not in missing]
    for group in range(file.num_row_groups):
        table = file.read_row_group(group, columns=present)
        for name in missing:
            table = table.append_column(name, pa.repeat(pa.scalar(""), table.num_rows))
        yield table


def _group(table: pa.Table, keys: list[str], aggregations: list[tuple[Any, str]]) -> list[dict[str, Any]]:
    """Return the rows of a table grouped by some columns; few, so plain values."""
    rows: list[dict[str, Any]] = table.group_by(keys).aggregate(aggregations).to_pylist()
    return rows
