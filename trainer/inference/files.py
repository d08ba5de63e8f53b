"""Open the files that a command reads and writes, and show its progress."""

import contextlib
import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO

from trireme.command import write_output
from trireme.errors import EXIT_STOPPED, ConfigError, RunStopped, Violation
from trireme.files import written_whole
from trireme.progress import PlainProgress, should_draw_bar
from trireme.stop_signals import unwinding_on_signals

STDIN = "-"
_LOGGER = logging.getLogger(__name__)


@contextlib.contextmanager
def open_input(path: str) -> Iterator[TextIO]:
    """Open a file of text, or stdin."""
    if path == STDIN:
        yield sys.stdin
        return
    with Path(path).expanduser().open(encoding="utf-8") as stream:
        yield stream


def read_stdin(*, name: str) -> str:
    """Read the text of stdin.

    Args:
        name: the option that names stdin, for messages.
    Raises:
        ConfigError: it is not UTF-8.
    """
    try:
        text = sys.stdin.read()
        text.encode()
    except UnicodeError as error:
        message, fix = f"stdin must be UTF-8: {error}", "Convert it to UTF-8."
        raise ConfigError([Violation(path=name, value=STDIN, message=message, fix=fix)]) from error
    return text


@contextlib.contextmanager
def open_output(path: Path | None) -> Iterator[Callable[[str], object]]:
    """Yield a function that writes text to a file, which appears whole at the end, or to stdout.

    Stop signals end the command, and leave no file.

    Raises:
        RunStopped: it cannot be written.
    """
    if path is None:
        yield write_output
        return
    try:
        with (
            unwinding_on_signals(),
            written_whole(path.expanduser()) as partial,
            partial.open("w", encoding="utf-8") as stream,
        ):
            yield stream.write
    except OSError as error:
        message = f"{path}: cannot be written: {error.strerror}. Free disk space, or write the output elsewhere."
        raise RunStopped(message, exit_code=EXIT_STOPPED) from error


@contextlib.contextmanager
def show_progress(title: str, total: int, *, unit: str, is_shown: bool) -> Iterator[Callable[[int], object]]:
    """Yield a function that takes what is finished of `total`: a bar on a terminal, else lines."""
    if not is_shown:
        yield lambda done: None
        return
    if should_draw_bar("auto", stream=sys.stderr):
        from rich.console import Console  # noqa: PLC0415 - only where a bar is drawn
        from rich.progress import (  # noqa: PLC0415 - as above
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        columns = (TextColumn(title), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as bar:
            task = bar.add_task("", total=total)
            yield lambda done: bar.update(task, completed=done)
        return
    plain = PlainProgress(title, total=total, unit=unit, write=_LOGGER.info)
    last = 0

    def show(done: int) -> None:
        nonlocal last
        last = done
        plain.update(done)

    yield show
    plain.finish(last)


def name_of(path: str) -> str:
    """Return the name of an input for messages."""
    return "stdin" if path == STDIN else path


def check_output(path: Path | None) -> list[Violation]:
    """Report an output that is there already, or that has no directory."""
    if path is None:
        return []
    if path.expanduser().exists():
        fix = "Remove it, or give another name."
        return [Violation(path="--output", value=path, message="exists", fix=fix)]
    if not path.expanduser().parent.is_dir():
        fix = "Create it, or give another name."
        return [Violation(path="--output", value=path, message="has no directory", fix=fix)]
    return []
