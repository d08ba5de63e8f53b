"""Find the text columns of a Parquet file from its schema."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from data_tools.config.schema import SourceConfig
from trireme.errors import Violation


def find_binary_type(kind: pa.DataType) -> pa.DataType | None:
    """Return the binary type with the same bytes, without an assumed encoding; None for types without text."""
    if pa.types.is_dictionary(kind):
        return find_binary_type(kind.value_type)
    if pa.types.is_large_string(kind) or pa.types.is_large_binary(kind):
        return pa.large_binary()
    if pa.types.is_string(kind) or pa.types.is_binary(kind):
        return pa.binary()
    if pa.types.is_string_view(kind) or pa.types.is_binary_view(kind):
        return pa.binary_view()
    return None


def holds_texts(kind: pa.DataType) -> bool:
    """Return whether a column has a text in each row, or a list of texts."""
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        kind = kind.value_type
    return find_binary_type(kind) is not None


def find_column(schema: pa.Schema, name: str) -> pa.DataType | None:
    """Return the type of a column, or of the nested field that a dotted name stands for; None if there is none."""
    if schema.names.count(name) == 1:
        return schema.field(name).type
    first, *path = name.split(".")
    if not path or schema.names.count(first) != 1:
        return None
    kind = schema.field(first).type
    for part in path:
        if not pa.types.is_struct(kind) or kind.get_field_index(part) < 0:
            return None
        kind = kind.field(part).type
    return kind


def list_columns(schema: pa.Schema) -> list[str]:
    """List columns as `text_field` names them: nested fields with dots."""

    def list_fields(name: str, kind: pa.DataType) -> list[str]:
        if not pa.types.is_struct(kind) or not kind.num_fields:
            return [name]
        return [column for field in kind for column in list_fields(f"{name}.{field.name}", field.type)]

    return [column for field in schema for column in list_fields(field.name, field.type)]


def describe_missing_text(schema: pa.Schema, name: str) -> str:
    """Describe the problem of the text column; empty if there is none. The text is part of ledgers."""
    columns = ", ".join(list_columns(schema))
    kind = find_column(schema, name)
    if kind is None:
        found = "more than one column" if schema.names.count(name) > 1 else "no column"
        return f"{found} {name!r}; its columns are {columns}"
    return "" if holds_texts(kind) else f"column {name!r} with {kind}, which is no text; its columns are {columns}"


def check_text_column(path: Path, source: SourceConfig, *, name: str) -> Violation | None:
    """Report, before anything is read, a file without the text column; damage is reported during reading.

    Args:
        name: of the field with the column's name, for the message.
    """
    try:
        problem = describe_missing_text(pq.read_schema(path), source.text_field)
    except (pa.ArrowException, OSError):
        return None
    if not problem:
        return None
    fix = "Set it to the column with the text, or remove the file."
    return Violation(path=name, value=source.text_field, message=f"{path} has {problem}", fix=fix)
