"""Plain dictionaries to the dataclasses of the schema, with every error at once.

Pydantic checks the types (strictly: "4.5" and 4.5 are no integers, 1 is no truth value) and collects the errors; the
dataclasses themselves stay free of it. A field whose type is a union of dataclasses is told apart by `name`:
`Annotated[DeepSpeedEngineConfig | OtherEngineConfig, Discriminator("name")]`.
"""

import dataclasses
import functools
import json
import shlex
import typing
from collections.abc import Mapping
from typing import Any, Generic, TypeVar

import pydantic

from trireme.config.fields import (
    Loc,
    describe_type,
    describe_value,
    field_types,
    is_optional,
    leaf_paths,
    nested_schemas,
    path_of,
    tag_of,
    union_members,
)
from trireme.config.override_line import quote_text
from trireme.config.path_text import BAD_PATH
from trireme.config.suggest import did_you_mean, join_or, nearest_names, to_yaml
from trireme.errors import Violation

T = TypeVar("T")

_UNKNOWN_KEY = ("unexpected_keyword_argument", "extra_forbidden")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Conversion(Generic[T]):
    """A configuration, or what is wrong with it."""

    config: T | None
    """None exactly when there are violations."""
    violations: tuple[Violation, ...] = ()
    bad_locs: tuple[Loc, ...] = ()
    """Places whose value cannot stand as it is."""
    doubtful_paths: frozenset[str] = frozenset()
    """Paths that may hold something else than the user meant: the bad ones, and those that a misspelt key resembles."""


@functools.cache
def _envelope(schema: type) -> Any:
    """A pydantic model around a dataclass, which hands its settings to all that the dataclass is made of.

    Strict mode takes a dataclass from JSON but not from a dictionary.
    """
    return pydantic.create_model(
        "Envelope", __config__=pydantic.ConfigDict(strict=True, extra="forbid"), config=(schema, ...)
    )


def to_dataclass(schema: type[T], plain: Mapping[str, Any]) -> Conversion[T]:
    """Build a dataclass from plain values.

    Args:
        schema: a dataclass whose fields are plain types, lists, or such dataclasses.
        plain: what JSON can hold.
    """
    envelope = _envelope(schema)  # type: ignore[arg-type]
    try:
        return Conversion(config=envelope.model_validate_json(json.dumps({"config": plain})).config)
    except pydantic.ValidationError as error:
        explained = [_explain(schema, details) for details in error.errors(include_url=False)]
    # A union of plain types, such as int | Literal["auto"], has an error for each of them.
    explained = list({found[1]: found for found in explained}.values())
    violations = tuple(violation for violation, _, _ in explained)
    suggestions = (path for _, _, paths in explained for path in paths)
    return Conversion(
        config=None,
        violations=violations,
        bad_locs=tuple(loc for _, loc, _ in explained),
        doubtful_paths=frozenset((*(violation.path for violation in violations), *suggestions)),
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Place:
    """Where an error stands: its location without union tags, the dataclass around it, the type expected there."""

    loc: Loc
    schema: type
    annotation: Any


def _find_place(root: type, pydantic_loc: Loc) -> _Place:
    """Follow an error's location (after the envelope's own key) through the schema; an unknown key has no type."""
    loc: list[str | int] = []
    schema: type = root
    annotation: Any = root
    for part in pydantic_loc:
        nested = nested_schemas(annotation)
        tagged = [member for member in nested if len(nested) > 1 and tag_of(member) == part]
        if tagged:
            annotation = tagged[0]
            continue
        if not nested and len(union_members(annotation)) > 1 and str(part).startswith(("int", "literal[")):
            continue
        loc.append(part)
        if isinstance(part, int):
            lists = [member for member in union_members(annotation) if typing.get_origin(member) is list]
            annotation = typing.get_args(lists[0])[0]
        elif nested:
            schema = nested[0]
            annotation = field_types(schema).get(part)
    return _Place(loc=tuple(loc), schema=schema, annotation=annotation)


def _explain(root: type, details: Any) -> tuple[Violation, Loc, list[str]]:
    """Turn one of pydantic's errors into a violation, its place, and the paths that the user may have meant."""
    place = _find_place(root, details["loc"][1:])
    path, value = path_of(place.loc), details["input"]
    if details["type"] in _UNKNOWN_KEY:
        return _explain_unknown_key(root, place, value)
    if details["type"] == "missing":
        fix = f"set {path} to {describe_type(place.annotation)}"
        return Violation(path=path, value="(missing)", message="is required", fix=fix), place.loc, []
    if details["type"].startswith("union_tag"):
        tags = [tag for tag in map(tag_of, nested_schemas(place.annotation)) if tag]
        given = value.get("name") if isinstance(value, dict) else value
        violation = Violation(
            path=f"{path}.name", value=to_yaml(given), message="is none of the choices", fix=_choose(given, tags)
        )
        return violation, place.loc, []
    if details["type"] == BAD_PATH:
        fix = "write a path" + (", or null" if is_optional(place.annotation) else "")
        return Violation(path=path, value=repr(value), message=details["ctx"]["rule"], fix=fix), place.loc, []
    members = union_members(place.annotation)
    choices = [choice for member in members for choice in _literals(member)]
    if choices and all(map(_literals, members)):
        rule, fix = "is none of the choices", _choose(value, choices)
    else:
        rule = f"is {describe_value(value)}, but the field takes {describe_type(place.annotation)}"
        fix = _fix_type(place.loc, value, place.annotation)
    return Violation(path=path, value=to_yaml(value), message=rule, fix=fix), place.loc, []


def _explain_unknown_key(root: type, place: _Place, value: object) -> tuple[Violation, Loc, list[str]]:
    """Name the field that an unknown key resembles: here first, then anywhere in the configuration."""
    key, parent = str(place.loc[-1]), path_of(place.loc[:-1])
    siblings = list(field_types(place.schema))
    here = [f"{parent}.{name}".lstrip(".") for name in nearest_names(key, siblings)]
    elsewhere = [path for path, _ in leaf_paths(root) if path.rpartition(".")[2] == key]
    suggestions = list(dict.fromkeys([*here, *elsewhere]))
    owner = parent or "the configuration"
    fix = f"did you mean {join_or(suggestions)}?" if suggestions else f"its fields are {', '.join(siblings)}"
    # Another alternative of a union may have it: `engine=megatron engine.zero_stage=1`.
    alternatives = nested_schemas(field_types(root).get(parent))
    owners = [tag_of(schema) for schema in alternatives if key in field_types(schema)]
    if owners:
        owner = f"{parent}={tag_of(place.schema)}"
        fix = f"leave it out, or use {parent}={join_or(owners)}; its fields are {', '.join(siblings)}"
    violation = Violation(path=path_of(place.loc), value=to_yaml(value), message=f"is no field of {owner}", fix=fix)
    return violation, place.loc, suggestions


def _literals(annotation: Any) -> tuple[Any, ...]:
    return typing.get_args(annotation) if typing.get_origin(annotation) is typing.Literal else ()


def _choose(value: object, choices: list[Any]) -> str:
    return f"{did_you_mean(str(value), map(str, choices))}use {join_or(choices)}"


def _fix_type(loc: Loc, value: object, annotation: Any) -> str:
    """What to write instead of a value of the wrong type."""
    members = union_members(annotation)
    if int in members and isinstance(value, float) and value == value and abs(value) < 2**63:
        below = int(value // 1)
        return f"use {join_or([below] if value == below else [below, below + 1])}"
    if str in members and isinstance(value, bool | int | float):
        return f"quote it: {_quote_at(loc, to_yaml(value))}"
    if value is None:
        return f"write {describe_type(annotation)}, or leave {path_of(loc)} out for its default"
    return f"write {describe_type(annotation)}"


def _quote_at(loc: Loc, text: str) -> str:
    """Show how a text is set at a place, as one word of a shell; of lists and mappings around it only itself."""
    num_keys = next((number for number, part in enumerate(loc) if isinstance(part, int)), len(loc))
    value = quote_text(text)
    for part in reversed(loc[num_keys:]):
        value = f"[{value}]" if isinstance(part, int) else f"{{{part}:{value}}}"
    return shlex.quote(f"{path_of(loc[:num_keys])}={value}")
