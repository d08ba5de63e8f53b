"""The type of fields that hold paths: `~` is the home directory in every one, and none may be empty.

A schema writes `PathText` in place of `str`; the conversion to dataclasses applies it, whatever the values come from.
"""

import os.path
from collections.abc import Callable
from typing import Annotated

import pydantic
from pydantic_core import PydanticCustomError

BAD_PATH = "bad_path"
"""Type of pydantic's error for a text that is no path; its context has the rule."""


class BadPathError(ValueError):
    """A text cannot be a path; the message says why."""


def expand_path(text: str) -> str:
    """Replace `~` at the beginning of a path by the home directory, `~NAME` by that of another user.

    Raises:
        BadPathError: there is no such home directory, or the text is no path.
    """
    if not text.strip():
        raise BadPathError("is empty, and it is a path")
    if "\0" in text:
        raise BadPathError("holds a NUL, which no path can")
    expanded = os.path.expanduser(text)
    if expanded.startswith("~"):
        user = text.partition("/")[0]
        missing = "HOME is not set" if user == "~" else f"there is no user {user[1:]}"
        raise BadPathError(f"begins with {user}, and {missing}; a name that begins with ~ is written ./{user}")
    return expanded


def expand_mount(text: str) -> str:
    """Expand the source of SOURCE:TARGET or SOURCE:TARGET:FLAGS; whether it has two ends is for a rule to say.

    Raises:
        BadPathError: as `expand_path`.
    """
    source, colon, target = text.partition(":")
    return (expand_path(source) if source.startswith("~") else source) + colon + target


def _validator(expand: Callable[[str], str]) -> pydantic.AfterValidator:
    """The validator that expands a text, or has pydantic say why it cannot."""

    def validate(text: str) -> str:
        try:
            return expand(text)
        except BadPathError as error:
            raise PydanticCustomError(BAD_PATH, "{rule}", {"rule": str(error)}) from error

    return pydantic.AfterValidator(validate)


PathText = Annotated[str, _validator(expand_path)]
"""A path on this host, or on hosts that have the same home directories."""
MountText = Annotated[str, _validator(expand_mount)]
"""A path on this host, and where a container sees it: SOURCE:TARGET."""
