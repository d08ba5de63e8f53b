"""Recognize arguments in the style of other command lines: --lr 1e-3, lr = 1e-3, values that the shell has split.

Each becomes one error that shows the right form. Overrides of Hydra are single words, PATH=VALUE.
"""

import re
import shlex
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from itertools import takewhile

from hydra.errors import HydraException

from trireme.config.override_line import parse_override, quote_override, suggest_quoting
from trireme.config.suggest import did_you_mean, join_or
from trireme.errors import Violation

_OPTION = re.compile(r"--?[A-Za-z]")
_NAME = re.compile(r"[+~]*[A-Za-z_][\w.@/-]*", re.ASCII)
_QUOTED = re.compile(r"\"(?:\\.|[^\"\\])*\"|'(?:\\.|[^'\\])*'|\\.")
_EXPANDED = re.compile(r"([A-Za-z_][\w.]*=)\[\s*\w+:")
"""An item of a mapping directly in a list: what a shell makes of [{paths:[A],weight:1}] without quotes."""


@dataclass(frozen=True, kw_only=True)
class Misplaced:
    """Hold neighboring arguments that set one thing in a wrong form."""

    arguments: tuple[str, ...]
    """As they are written."""
    shown: str
    """The argument, or the name, to report the error for."""
    name: str
    """The setting that they name, without dashes in front."""
    value: str | None
    """The value that they give it; None without one."""
    message: str
    fix: str = ""
    """The right form, where it does not follow from name and value."""
    quoted: str = ""
    """The argument before with this text as a part of its value, as one word for a shell; empty if there is none."""


def regroup(arguments: Sequence[str], *, options: Collection[str] = ()) -> list[str | Misplaced]:
    """Join neighboring arguments that set one thing in a wrong form.

    Args:
        options: options of the command that begin with dashes.
    Returns:
        All arguments in their order: options and those of the form PATH=VALUE as they are.
    """
    regrouped: list[str | Misplaced] = []
    position = 0
    while position < len(arguments):
        rest = arguments[position:]
        if rest[0] in options:
            found = None
        else:
            found = _read_option(rest) or _read_spaced(rest) or _read_expanded(rest) or _read_split(rest)
            found = found or _read_stray(rest, before=arguments[position - 1] if position else "")
        if found is None:
            regrouped.append(rest[0])
            position += 1
        else:
            regrouped.append(found)
            position += len(found.arguments)
    return regrouped


def explain(
    misplaced: Misplaced,
    *,
    find_settings: Callable[[str], Sequence[str]],
    is_boolean: Callable[[str], bool],
    options: Sequence[str] = (),
    words: Sequence[str] = (),
) -> Violation:
    """Describe such arguments as one error with the right form.

    Args:
        find_settings: returns the settings that a name may mean, as PATH or, for a fixed value, PATH=VALUE.
        is_boolean: returns whether a setting, or a word of the command, is true or false.
        options: the command's options that begin with dashes.
        words: the command's own words, which are written as WORD=VALUE.
    """
    value = misplaced.value or ""
    if misplaced.fix:
        return Violation(path=misplaced.shown, value=value, message=misplaced.message, fix=misplaced.fix)
    name = misplaced.name
    settings = [name] if name in words else list(find_settings(name))
    if settings or not misplaced.shown.startswith("-"):
        forms = [_write(each, misplaced.value, is_boolean=is_boolean(each)) for each in settings or ["PATH"]]
        is_clear = settings and misplaced.value is not None
        quoted = "" if is_clear or not misplaced.quoted else f", or quote a value with spaces: {misplaced.quoted}"
        fix = f"Write {join_or(forms)}{quoted}."
        return Violation(path=misplaced.shown, value=value, message=misplaced.message, fix=fix)
    hint = did_you_mean(name, words) or did_you_mean(misplaced.shown, options)
    known = [*options, *(f"{word}=VALUE" for word in words)]
    own = f"Use {join_or(known)}; write" if known else "Write"
    return Violation(
        path=misplaced.shown, value=value, message="unknown option", fix=f"{hint}{own} settings as PATH=VALUE."
    )


def _write(setting: str, value: str | None, *, is_boolean: bool) -> str:
    if "=" in setting:
        return setting
    return f"{setting}={'true' if is_boolean else 'VALUE'}" if value is None else write_override(setting, value)


def write_override(path: str, value: str) -> str:
    """Write an override as one word for a shell."""
    line = f"{path}={value}"
    return shlex.quote(line) if _is_override(line) else suggest_quoting(line) or quote_override(path, value)


def _is_override(line: str) -> bool:
    try:
        parse_override(line)
    except HydraException:
        return False
    return True


def _is_plain(argument: str) -> bool:
    """Return whether an argument is neither an option nor an override."""
    return "=" not in argument and not _OPTION.match(argument)


def _read_option(rest: Sequence[str]) -> Misplaced | None:
    """Read --NAME VALUE, --NAME=VALUE or --NAME."""
    if not _OPTION.match(rest[0]):
        return None
    shown, has_value, value = rest[0].partition("=")
    name = shown.lstrip("-").replace("-", "_")
    message = "settings are written without dashes"
    if not has_value and len(rest) > 1 and _is_plain(rest[1]):
        return Misplaced(arguments=tuple(rest[:2]), shown=shown, name=name, value=rest[1], message=message)
    given = value if has_value else None
    return Misplaced(arguments=tuple(rest[:1]), shown=shown, name=name, value=given, message=message)


def _read_spaced(rest: Sequence[str]) -> Misplaced | None:
    """Read NAME = VALUE, NAME= VALUE or NAME =VALUE."""
    name = rest[0].removesuffix("=")
    if not _NAME.fullmatch(name):
        return None
    after = list(rest[1:3])
    if rest[0].endswith("="):
        values = after[:1] if after and _is_plain(after[0]) else []
    elif after[:1] == ["="]:
        values = after[1:]
    else:
        values = [after[0].removeprefix("=")] if after and after[0].startswith("=") else []
    if not values:
        return None
    size = 3 if after[:1] == ["="] else 2
    message = "must be written without spaces around ="
    return Misplaced(arguments=tuple(rest[:size]), shown=name, name=name, value=values[0], message=message)


def _read_expanded(rest: Sequence[str]) -> Misplaced | None:
    """Read several arguments for one setting that the shell has made of the braces in its value."""
    if (first := _EXPANDED.match(rest[0])) is None:
        return None
    key = first[1]
    parts = list(takewhile(lambda argument: argument.startswith(f"{key}["), rest))
    middles = [part.removeprefix(f"{key}[").removesuffix("]") for part in parts]
    line = f"{key}[{{{','.join(middles)}}}]"
    # [{A,B},{C,D}] becomes all four combinations, from which it cannot be told apart.
    is_unique = len(parts) > 1 and not any(re.search(r",\s*\w+:", middle) for middle in middles)
    form = shlex.quote(line) if is_unique and _is_override(line) else f"'{key}[{{...}}]'"
    message = "its braces must be quoted, or the shell expands them"
    fix = f"Quote the whole argument: {form}."
    return Misplaced(arguments=tuple(parts), shown=key[:-1], name=key[:-1], value=None, message=message, fix=fix)


def _read_split(rest: Sequence[str]) -> Misplaced | None:
    """Read an override that the shell has split at spaces inside its brackets."""
    name, _, _ = rest[0].partition("=")
    if "=" not in rest[0] or _count_open(rest[0]) <= 0:
        return None
    for size in range(2, len(rest) + 1):
        line = " ".join(rest[:size])
        if _count_open(line) == 0:
            form = shlex.quote(line) if _is_override(line) else suggest_quoting(line)
            message = "must be quoted, or the shell splits it at its spaces"
            fix = f"Write {form}." if form else "Put the whole argument in single quotes."
            return Misplaced(arguments=tuple(rest[:size]), shown=name, name=name, value=None, message=message, fix=fix)
    return None


def _count_open(text: str) -> int:
    text = _QUOTED.sub("", text)
    return sum(text.count(mark) for mark in "[{") - sum(text.count(mark) for mark in "]}")


def _read_stray(rest: Sequence[str], *, before: str) -> Misplaced | None:
    """Read NAME VALUE, or words that belong to the value of the argument before."""
    words = list(takewhile(_is_plain, rest))
    if not words or not words[0] or words[0].startswith("~"):  # ~NAME is Hydra's form to delete a field
        return None
    path, is_override, value = before.partition("=")
    quoted = write_override(path, " ".join([value, *words])) if is_override and path else ""
    given = words[1] if len(words) == 2 else None
    message = "must be written with =" if given else "has no value"
    return Misplaced(arguments=tuple(words), shown=words[0], name=words[0], value=given, message=message, quoted=quoted)
