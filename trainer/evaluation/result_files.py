"""Keep the figures of one run after another in a file, and write the files that a user has named."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trireme.errors import EXIT_STOPPED, RunStopped, Violation
from trireme.files import write_whole
from trireme.strict_json import to_json

_LOGGER = logging.getLogger(__name__)


def check_file(path: Path | None, *, option: str) -> list[Violation]:
    """Report a file that cannot be written where a user has named it; None is no file."""
    if path is None:
        return []
    place, fix = path.expanduser(), "Create it, or give another name."
    if not place.parent.is_dir():
        return [Violation(path=option, value=path, message="has no directory", fix=fix)]
    if place.is_dir():
        return [Violation(path=option, value=path, message="is a directory", fix="Name a file.")]
    return []


def check_result_file(path: Path | None, *, option: str) -> list[Violation]:
    """Report a file for `keep_result` that cannot be written, or holds something else than results."""
    found = check_file(path, option=option)
    if path is None or found:
        return found
    try:
        holds_others = _read_list(path.expanduser()) is None
    except OSError as error:
        message, fix = f"cannot be read: {error.strerror}", "Name another file."
        return [Violation(path=option, value=path, message=message, fix=fix)]
    if holds_others:
        message, fix = "exists, and is no list of results to add to", "Name another file, or remove it."
        found.append(Violation(path=option, value=path, message=message, fix=fix))
    return found


def keep_result(path: Path, result: Mapping[str, Any], *, is_asked: bool) -> None:
    """Add a result to the JSON list in a file; a file that is no list is replaced, with a warning.

    Args:
        is_asked: whether a user has named the file, and not only the command, which then warns.
    Raises:
        RunStopped: a file that a user has named cannot be written.
    """
    try:
        results = _read_list(path)
        if results is None:
            _LOGGER.warning("%s was no list of results; it is replaced.", path)
        write_whole(path, to_json([*(results or ()), result]) + "\n")
    except OSError as error:
        if is_asked:
            raise _explain(path, error) from error
        _LOGGER.warning("Failed to write %s: %s", path, error.strerror)


def keep_result_of(checkpoint: Path, result: Mapping[str, Any], *, name: str, output: Path | None) -> None:
    """Add a result to a file of its own name in the checkpoint's run directory, or to the file that a user has named.

    A checkpoint in no run directory is said, and nothing is written.

    Raises:
        RunStopped: the file that a user has named cannot be written.
    """
    from trainer.saved_run import run_directory_of  # noqa: PLC0415 - imports PyTorch; commands check arguments first

    directory = run_directory_of(checkpoint)
    if output is not None:
        keep_result(output.expanduser(), result, is_asked=True)
    elif directory is not None:
        keep_result(directory / name, result, is_asked=False)
    else:
        _LOGGER.info("%s is not in a run directory; %s is not written.", checkpoint, name)


def write_asked(path: Path, text: str) -> None:
    """Write a file that a user has named.

    Raises:
        RunStopped: it cannot be written.
    """
    try:
        write_whole(path.expanduser(), text)
    except OSError as error:
        raise _explain(path, error) from error


def _explain(path: Path, error: OSError) -> RunStopped:
    message = f"{path}: cannot be written: {error.strerror}. Free disk space, or write it elsewhere."
    return RunStopped(message, exit_code=EXIT_STOPPED)


def _read_list(path: Path) -> list[Any] | None:
    """Return the results of a file, none if there is no file; None if it holds something else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return []
    except ValueError:
        return None
    return content if isinstance(content, list) else None
