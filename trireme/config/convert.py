"""Convert plain dictionaries to the dataclasses of the schema, and report all errors at once.

Pydantic checks the types (strictly: "4.5" and 4.5 are not integers, 1 is not a boolean) and collects the errors; the
dataclasses themselves do not depend on it. The members of a union of dataclasses are distinguished by `name`:
`Annotated[DeepSpeedEngineConfig | OtherEngineConfig, Discriminator("name")]`.
"""

import dataclasses
import functools
import json
import shlex
import typing
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Generic, TypeVar

import pydantic

from trireme.config.fields import (
    FORMER_NAMES,
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
    """Hold a configuration, or its errors."""

    config: T | None
    """None exactly when there are violations."""
    violations: tuple[Violation, ...] = ()
    bad_locs: tuple[Loc, ...] = ()
    """Places whose value is invalid."""
    doubtful_paths: frozenset[str] = frozenset()
    """Paths whose value may differ from what the user intended: the invalid ones, and those that a misspelled key
    resembles."""


@functools.cache
def _envelope(schema: type) -> Any:
    """Wrap a dataclass in a pydantic model, whose settings apply to everything inside.

    Strict mode accepts a dataclass from JSON but not from a dictionary.
    """
    return pydantic.create_model(
        "Envelope", __config__=pydantic.ConfigDict(strict=True, extra="forbid"), config=(schema, ...)
    )


def to_dataclass(
    schema: type[T], plain: Mapping[str, Any], *, aliases: Mapping[str, tuple[str, ...]] = MappingProxyType({})
) -> Conversion[T]:
    """Build a dataclass from plain values.

    Args:
        schema: a dataclass whose fields are plain types, lists, or such dataclasses.
        plain: values that JSON can represent.
        aliases: names of other projects -> the settings that mean the same, to suggest for unknown fields.
    """
    envelope = _envelope(schema)  # type: ignore[arg-type]
    try:
        return Conversion(config=envelope.model_validate_json(json.dumps({"config": plain})).config)
    except pydantic.ValidationError as error:
        explained = [_explain(schema, details, aliases) for details in error.errors(include_url=False)]
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
    """Locate an error: its path without union tags, the enclosing dataclass, the type expected there."""

    loc: Loc
    schema: type
    annotation: Any


def _find_place(root: type, pydantic_loc: Loc) -> _Place:
    """Resolve an error's location (after the envelope's own key) in the schema; an unknown key has no type."""
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


def _explain(root: type, details: Any, aliases: Mapping[str, tuple[str, ...]]) -> tuple[Violation, Loc, list[str]]:
    """Turn one of pydantic's errors into a violation, its place, and the paths that the user may have intended."""
    place = _find_place(root, details["loc"][1:])
    path, value = path_of(place.loc), details["input"]
    if details["type"] in _UNKNOWN_KEY:
        return _explain_unknown_key(root, place, value, aliases)
    if details["type"] == "missing":
        fix = f"Set {path} to {describe_type(place.annotation)}."
        return Violation(path=path, value="", message="required field is missing", fix=fix), place.loc, []
    if details["type"].startswith("union_tag"):
        tags = [tag for tag in map(tag_of, nested_schemas(place.annotation)) if tag]
        given = value.get("name") if isinstance(value, dict) else value
        return _unknown_value(f"{path}.name", given, tags), place.loc, []
    if details["type"] == BAD_PATH:
        fix = "Use a path" + (", or null." if is_optional(place.annotation) else ".")
        return Violation(path=path, value=repr(value), message=details["ctx"]["rule"], fix=fix), place.loc, []
    members = union_members(place.annotation)
    choices = [choice for member in members for choice in _literals(member)]
    if choices and all(map(_literals, members)):
        return _unknown_value(path, value, choices), place.loc, []
    shown = "null" if value is None else f"{describe_value(value)} ({to_yaml(value)})"
    rule = f"expected {describe_type(place.annotation)}, got {shown}"
    fix = _fix_type(place.loc, value, place.annotation)
    return Violation(path=path, value="", message=rule, fix=fix), place.loc, []


def find_aliases(name: str, aliases: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    """Return the settings that another project's name means, whatever group it is written in."""
    plain = name.replace("-", "_").lower()
    return aliases.get(plain) or aliases.get(plain.rpartition(".")[2]) or ()


def _explain_unknown_key(
    root: type, place: _Place, value: object, aliases: Mapping[str, tuple[str, ...]]
) -> tuple[Violation, Loc, list[str]]:
    """Suggest the field that an unknown key resembles: here first, then anywhere in the configuration."""
    key, parent = str(place.loc[-1]), path_of(place.loc[:-1])
    for field in dataclasses.fields(place.schema):
        if key in field.metadata.get(FORMER_NAMES, ()):
            name = f"{parent}.{field.name}".lstrip(".")
            violation = Violation(path=path_of(place.loc), value="", message="was renamed", fix=f"Use {name}.")
            return violation, place.loc, [name]
    siblings = list(field_types(place.schema))
    here = [f"{parent}.{name}".lstrip(".") for name in nearest_names(key, siblings)]
    elsewhere = [path for path, _ in leaf_paths(root) if path.rpartition(".")[2] == key]
    suggestions = list(find_aliases(path_of(place.loc), aliases)) or list(dict.fromkeys([*here, *elsewhere]))
    owner = f" of {parent}" if parent else ""
    fix = f"Did you mean {join_or(suggestions)}?" if suggestions else f"Use one of {', '.join(siblings)}."
    # Another alternative of a union may have it: `engine=megatron engine.zero_stage=1`.
    alternatives = nested_schemas(field_types(root).get(parent))
    owners = [tag_of(schema) for schema in alternatives if key in field_types(schema)]
    if owners:
        owner = f" of {parent}={tag_of(place.schema)}"
        fix = (
            f"Remove it, or use {parent}={join_or(owners)}; {parent}={tag_of(place.schema)} has {', '.join(siblings)}."
        )
    violation = Violation(path=path_of(place.loc), value=to_yaml(value), message=f"unknown field{owner}", fix=fix)
    return violation, place.loc, [suggestion.partition("=")[0] for suggestion in suggestions]


def _literals(annotation: Any) -> tuple[Any, ...]:
    return typing.get_args(annotation) if typing.get_origin(annotation) is typing.Literal else ()


def _unknown_value(path: str, value: object, choices: list[Any]) -> Violation:
    fix = f"{did_you_mean(str(value), map(str, choices))}Choose {join_or(choices)}."
    return Violation(path=path, value="", message=f"unknown value {to_yaml(value)!r}", fix=fix)


def _fix_type(loc: Loc, value: object, annotation: Any) -> str:
    """Suggest what to write instead of a value of the wrong type."""
    members = union_members(annotation)
    if int in members and isinstance(value, float) and value == value and abs(value) < 2**63:
        below = int(value // 1)
        return f"Use {join_or([below] if value == below else [below, below + 1])}."
    if str in members and isinstance(value, bool | int | float):
        return f"Quote it: {_quote_at(loc, to_yaml(value))}"
    if value is None:
        return f"Use {describe_type(annotation)}, or remove {path_of(loc)} to get its default."
    return f"Use {describe_type(annotation)}."


def _quote_at(loc: Loc, text: str) -> str:
    """Write an override that sets a text at a place, as one shell word; lists and mappings hold only this item."""
    num_keys = next((number for number, part in enumerate(loc) if isinstance(part, int)), len(loc))
    value = quote_text(text)
    for part in reversed(loc[num_keys:]):
        value = f"[{value}]" if isinstance(part, int) else f"{{{part}:{value}}}"
    return shlex.quote(f"{path_of(loc[:num_keys])}={value}")
