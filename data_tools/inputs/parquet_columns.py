"""Which columns of a Parquet file hold text, told from its schema alone."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from data_tools.config.schema import SourceConfig
from trireme.errors import Violation


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


def holds_texts(kind: pa.DataType) -> bool:
    """Whether a column has a text in each row, or a list of them."""
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        kind = kind.value_type
    return find_binary_type(kind) is not None


def find_column(schema: pa.Schema, name: str) -> pa.DataType | None:
    """The type of a column, or, where there is none of this name, of the field that its dots name within structures."""
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
    """Columns as `text_field` names them: the fields of structures with dots."""

    def list_fields(name: str, kind: pa.DataType) -> list[str]:
        if not pa.types.is_struct(kind) or not kind.num_fields:
            return [name]
        return [column for field in kind for column in list_fields(f"{name}.{field.name}", field.type)]

    return [column for field in schema for column in list_fields(field.name, field.type)]


def describe_missing_text(schema: pa.Schema, name: str) -> str:
    """What is wrong with the column that should hold the text; empty if nothing is."""
    columns = ", ".join(list_columns(schema))
    kind = find_column(schema, name)
    if kind is None:
        found = "more than one column" if schema.names.count(name) > 1 else "no column"
        return f"{found} {name!r}; its columns are {columns}"
    return "" if holds_texts(kind) else f"column {name!r} with {kind}, which is no text; its columns are {columns}"


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
    return Violation(path=name, value=source.text_field, message=f"is not for {path}, which has {problem}", fix=fix)
