"""Which columns of a Parquet file hold text, told from its schema alone."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from data_tools.config import SourceConfig
from trainer.common.errors import Violation


def find_binary_type(kind: pa.DataType) -> pa.DataType | None:
    """The type of the same bytes without a claim about their encoding; None for what holds no text."""
    if pa.types.is_dictionary(kind):
        return find_binary_type(kind.value_type)
    if pa.types.is_large_string(kind) or pa.types.is_large_binary(kind):
        return pa.large_binary()
    if pa.types.is_string(kind) or pa.types.is_binary(kind):
        return pa.binary()
    if pa.types.is_string_view(kind) or pa.types.is_binary_view(kind):
        return pa.binary_view()
    return None


def describe_missing_text(schema: pa.Schema, name: str) -> str:
    """What is wrong with the column that should hold the text; empty if nothing is."""
    columns = ", ".join(schema.names)
    if schema.names.count(name) != 1:
        found = "no column" if name not in schema.names else "more than one column"
        return f"{found} {name!r}; its columns are {columns}"
    kind = schema.field(name).type
    return "" if find_binary_type(kind) else f"column {name!r} with {kind}, which is no text; its columns are {columns}"


def check_text_column(path: Path, source: SourceConfig, *, name: str) -> Violation | None:
    """Tell before anything is read that a file has no column of the text; damage is told when it is read.

    Args:
        name: of the field that holds the column's name, for the message.
    """
    try:
        problem = describe_missing_text(pq.read_schema(path), source.text_field)
    except (pa.ArrowException, OSError):
        return None
    if not problem:
        return None
    fix = "name the column that holds the text, or leave the file out"
    return Violation(path=name, value=source.text_field, rule=f"is not for {path}, which has {problem}", fix=fix)
