"""Read where a document of a shard comes from, in the table that `trireme prepare` writes beside it."""

from pathlib import Path
from typing import Any

from pyarrow import parquet

from trireme.shards.shard import shard_file

DOCUMENTS_SUFFIX = ".documents.parquet"
_COLUMNS = ("source", "file", "record", "id", "url", "title")


def read_origin(prefix: str | Path, number: int) -> dict[str, Any] | None:
    """Return source, file, record, id, url and title of a document; None if the shard has no table.

    Args:
        prefix: of the shard.
        number: of the document, from 0.
    """
    path: Path = shard_file(str(prefix), DOCUMENTS_SUFFIX)
    if not path.is_file():
        return None
    file = parquet.ParquetFile(path)
    skipped = number
    for group in range(file.num_row_groups):
        rows = file.metadata.row_group(group).num_rows
        if skipped < rows:
            table = file.read_row_group(group, columns=list(_COLUMNS))
            row: dict[str, Any] = table.slice(skipped, 1).to_pylist()[0]
            return row
        skipped -= rows
    return None
