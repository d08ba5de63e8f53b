"""Define the type of fields that hold paths: `~` is expanded in every one, and none may be empty.

A schema writes `PathText` in place of `str`; the conversion to dataclasses applies it, whatever the values come from.
"""

import os.path
from collections.abc import Callable
from typing import Annotated

import pydantic
from pydantic_core import PydanticCustomError

BAD_PATH = "bad_path"
"""Type of pydantic's error for an invalid path; its context has the rule."""


class BadPathError(ValueError):
    """Report an invalid path; the message is a clause that says why."""


def expand_path(text: str) -> str:
    """Replace a leading `~` by the home directory, `~NAME` by that of another user.

    Raises:
        BadPathError: there is no such home directory, or the text is not a valid path.
    """
    if not text.strip():
        raise BadPathError("must not be empty")
    if "\0" in text:
        raise BadPathError("must not contain a NUL character")
    expanded = os.path.expanduser(text)
    if expanded.startswith("~"):
        user = text.partition("/")[0]
        missing = "HOME is not set" if user == "~" else f"user {user[1:]} does not exist"
        raise BadPathError(f"cannot expand {user}: {missing}; for a file name that begins with ~ write ./{user}")
    return expanded


def expand_mount(text: str) -> str:
    """Expand the source of SOURCE:TARGET or SOURCE:TARGET:FLAGS; a rule checks that it has two ends.

    Raises:
        BadPathError: as `expand_path`.
    """
    source, colon, target = text.partition(":")
    return (expand_path(source) if source.startswith("~") else source) + colon + target


def _validator(expand: Callable[[str], str]) -> pydantic.AfterValidator:
    """Return a validator that expands a text, or makes pydantic report why it cannot."""

    def validate(text: str) -> str:
        try:
            return expand(text)
        except BadPathError as error:
            raise PydanticCustomError(BAD_PATH, "{rule}", {"rule": str(error)}) from error

    return pydantic.AfterValidator(validate)


PathText = Annotated[str, _validator(expand_path)]
"""A path on this host, or on hosts that have the same home directories."""
MountText = Annotated[str, _validator(expand_mount)]
"""A path on this host and its mount point in a container: SOURCE:TARGET."""
