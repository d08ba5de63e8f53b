"""Render Markdown tables of a configuration's groups and fields, from conf/ and the dataclasses."""

import ast
import dataclasses
import inspect
import textwrap
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from trireme.config.compose import ConfigRoot
from trireme.config.fields import describe_type, field_types, is_optional, nested_schemas, union_members
from trireme.config.ranges import Range
from trireme.config.suggest import to_yaml
from trireme.project import CONF_DIR


def render_groups(root: ConfigRoot[Any]) -> str:
    """Render a table of the groups and their options."""
    rows = ["| group | option | description |", "|---|---|---|"]
    defaults = _default_options(root)
    for group, options in root.group_options().items():
        for option in options:
            shown = f"`{option}`" + (" (default)" if defaults.get(group) == option else "")
            rows.append(f"| `{group}` | {shown} | {_head_comment(CONF_DIR / group / f'{option}.yaml')} |")
    return "\n".join(rows)


def _default_options(root: ConfigRoot[Any]) -> dict[str, str]:
    """Return group -> option of the defaults list of a root file, which has one `- GROUP: OPTION` per line."""
    lines = (CONF_DIR / f"{root.name}.yaml").read_text(encoding="utf-8").splitlines()
    entries = (line.partition("#")[0].strip().removeprefix("- ").split(": ") for line in lines if "  - " in line)
    return {entry[0]: entry[1] for entry in entries if len(entry) == 2}


def _head_comment(file: Path) -> str:
    """Return the first paragraph of the comment at the head of a YAML file, without Hydra's package line."""
    comment: list[str] = []
    for line in file.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#") or line == "#":
            break
        if not line.startswith("# @package"):
            comment.append(line.removeprefix("#").strip())
    return " ".join(comment)


def render_fields(schema: type, *, prefix: str, nested: bool, ranges: Mapping[str, Range]) -> str:
    """Render a table of the fields of a dataclass.

    Args:
        prefix: prepended to each field's name to form its path.
        nested: whether the fields of nested dataclasses follow their field, or are skipped.
        ranges: of numbers, by path.
    """
    head = ["| field | type | default | description |", "|---|---|---|---|"]
    return "\n".join([*head, *_rows(schema, prefix, nested=nested, ranges=ranges)])


def _rows(schema: type, prefix: str, *, nested: bool, ranges: Mapping[str, Range]) -> Iterator[str]:
    """Yield one row per field; nested dataclasses (also as list items) follow their field."""
    types, docs = field_types(schema), _field_docs(schema)
    for field in dataclasses.fields(schema):
        path, annotation = prefix + field.name, types[field.name]
        inner = nested_schemas(annotation)
        items = [item for member in union_members(annotation) for item in _item_schemas(member)]
        if inner and not nested:
            continue
        if not inner:
            row = (f"`{path}`", _type(annotation, path, ranges), _default(field), docs[field.name])
            yield "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |"
        for item in inner:
            yield from _rows(item, f"{path}.", nested=True, ranges=ranges)
        for item in items:
            yield from _rows(item, f"{path}[].", nested=True, ranges=ranges)


def _item_schemas(annotation: Any) -> tuple[type, ...]:
    return nested_schemas(typing.get_args(annotation)[0]) if typing.get_origin(annotation) is list else ()


def _field_docs(schema: type) -> dict[str, str]:
    """Return the string under each field of a dataclass."""
    body = ast.parse(textwrap.dedent(inspect.getsource(schema))).body[0]
    assert isinstance(body, ast.ClassDef)
    docs = {}
    for statement, following in zip(body.body, body.body[1:], strict=False):
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            assert isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant)
            docs[statement.target.id] = " ".join(str(following.value.value).split())
    return docs


def _type(annotation: Any, path: str, ranges: Mapping[str, Range]) -> str:
    """Describe a field's type: choices in code font, numbers with their range."""
    members = union_members(annotation)
    choices = [choice for member in members for choice in typing.get_args(member)]
    if any(typing.get_origin(member) is Literal for member in members):
        words = ", ".join(f"`{choice}`" for choice in choices)
        if int in members:
            words = f"an integer, {ranges[path]}, or {words}" if path in ranges else f"an integer, or {words}"
    elif any(_item_schemas(member) for member in union_members(annotation)):
        words = "a list of mappings"
    else:
        words = describe_type(annotation)
        if path in ranges:
            number = words.removesuffix(" or null")
            words = f"{number}, {ranges[path]}" + (", or null" if is_optional(annotation) else "")
    return words


def _default(field: "dataclasses.Field[Any]") -> str:
    if field.default is not dataclasses.MISSING:
        return f"`{to_yaml(field.default)}`"
    return f"`{to_yaml(field.default_factory())}`" if field.default_factory is not dataclasses.MISSING else "required"
