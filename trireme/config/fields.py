"""Inspect dataclasses: their fields, types and paths."""

import dataclasses
import types
import typing
from collections.abc import Iterable, Iterator
from typing import Any, Literal, Union

Loc = tuple[str | int, ...]
"""A place in a configuration: ("data", "train", 0, "weight")."""
FORMER_NAMES = "former_names"
"""Key of a field's metadata: the names that it had before; they are rejected with the new name as the hint."""


def field_types(schema: type) -> dict[str, Any]:
    """Return field name -> type of a dataclass, with forward references resolved and Annotated stripped."""
    hints = typing.get_type_hints(schema)
    return {field.name: hints[field.name] for field in dataclasses.fields(schema)}


def union_members(annotation: Any) -> tuple[Any, ...]:
    """Return the alternatives of a union, without None; the type itself when it is not a union."""
    if typing.get_origin(annotation) not in (Union, types.UnionType):
        return (annotation,)
    return tuple(member for member in typing.get_args(annotation) if member is not types.NoneType)


def is_optional(annotation: Any) -> bool:
    """Return whether null is a value of the type."""
    return typing.get_origin(annotation) in (Union, types.UnionType) and types.NoneType in typing.get_args(annotation)


def nested_schemas(annotation: Any) -> tuple[type, ...]:
    """Return the dataclasses that a value of the type may be (several: one per engine, distinguished by `name`)."""
    return tuple(
        member for member in union_members(annotation) if isinstance(member, type) and dataclasses.is_dataclass(member)
    )


def tag_of(schema: type) -> str | None:
    """Return the value of the `name` field that selects this dataclass among the alternatives of a union."""
    annotation = field_types(schema).get("name")
    return str(typing.get_args(annotation)[0]) if typing.get_origin(annotation) is Literal else None


def leaf_paths(schema: type, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every settable path below a dataclass with its type; a list is one leaf."""
    for name, annotation in field_types(schema).items():
        nested = nested_schemas(annotation)
        for inner in nested:
            yield from leaf_paths(inner, f"{prefix}{name}.")
        if not nested:
            yield prefix + name, annotation


def path_of(loc: Loc) -> str:
    """Write a place as a path: `data.train[0].weight`."""
    text = ""
    for part in loc:
        text += f"[{part}]" if isinstance(part, int) else f".{part}"
    return text.lstrip(".")


def is_inside(path: str, outer: str) -> bool:
    """Return whether a path is equal to, or below, another."""
    return path == outer or path.startswith((f"{outer}.", f"{outer}["))


def overlaps(path: str, others: Iterable[str]) -> bool:
    """Return whether a path is equal to, below, or above any of the others."""
    return any(is_inside(path, other) or is_inside(other, path) for other in others)


def describe_type(annotation: Any) -> str:
    """Describe in words what a field accepts."""
    names = {int: "an integer", float: "a number", bool: "true or false", str: "a string", Any: "a string or a mapping"}
    words = []
    for member in union_members(annotation):
        origin = typing.get_origin(member)
        if origin is Literal:
            choices = list(map(str, typing.get_args(member)))
            words.append(("one of " if len(choices) > 1 else "") + ", ".join(choices))
        elif origin is list:
            words.append("a list; each item: " + describe_type(typing.get_args(member)[0]))
        elif origin is dict:
            words.append("a mapping")
        elif dataclasses.is_dataclass(member):
            words.append("a mapping with " + ", ".join(field_types(typing.cast(type, member))))
        else:
            words.append(names.get(member, str(member)))
    if is_optional(annotation):
        words.append("null")
    return " or ".join(words)


def describe_value(value: object) -> str:
    """Describe in words the type of a value."""
    names = {bool: "a boolean", int: "an integer", float: "a decimal number", str: "a string", list: "a list"}
    return "null" if value is None else names.get(type(value), "a mapping")
