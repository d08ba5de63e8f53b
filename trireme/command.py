"""A command's output, and how it ends when its reader or its user has had enough.

`COMMAND | head` closes the pipe after ten lines, and Ctrl-C ends a command early: neither is an error, and neither
shows a traceback.
"""

import contextlib
import os
import sys
from collections.abc import Callable

from trireme.errors import EXIT_STOPPED, RunStopped, exit_code_of

EXIT_INTERRUPTED = 130
"""128 + SIGINT: what a shell reports of a process that Ctrl-C ended."""
EXIT_BROKEN_PIPE = 141
"""128 + SIGPIPE: what a shell reports of `yes` in `yes | head`."""


def run_command(main: Callable[[], int | None]) -> int:
    """Run the body of a command that ends by itself, as `exit_code_of` does.

    Ctrl-C becomes exit code 130, and a reader of stdout that has gone 141, both without a word.
    """
    try:
        try:
            code = exit_code_of(main)
        except SystemExit:  # argparse has answered --help
            flush_output()
            raise
        return code if exit_code_of(flush_output) == 0 else EXIT_STOPPED
    except KeyboardInterrupt:
        with contextlib.suppress(BrokenPipeError, RunStopped):
            flush_output()
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        _discard_output()
        return EXIT_BROKEN_PIPE


def write_output(text: str) -> None:
    """Write to stdout, at once.

    Raises:
        BrokenPipeError: whoever reads stdout has gone.
        RunStopped: stdout takes no more, such as a file on a full disk.
    """
    if sys.stdout is None:  # started with `>&-`
        return
    try:
        sys.stdout.write(text)
    except OSError as error:
        _explain(error)
    flush_output()


def flush_output() -> None:
    """Hand what was written to the system.

    Raises:
        BrokenPipeError, RunStopped: see `write_output`.
    """
    if sys.stdout is None:
        return
    try:
        sys.stdout.flush()
    except OSError as error:
        _explain(error)


def allow_any_text() -> None:
    """Write characters that the terminal's encoding lacks as question marks, rather than fail at the first one."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")


def _explain(error: OSError) -> None:
    if isinstance(error, BrokenPipeError):
        raise error
    _discard_output()
    raise RunStopped(f"The output cannot be written: {error.strerror}.", exit_code=EXIT_STOPPED) from error


def _discard_output() -> None:
    """Send what Python still holds for stdout nowhere: it would complain of it when the process ends."""
    descriptor = os.open(os.devnull, os.O_WRONLY)
    os.dup2(descriptor, sys.stdout.fileno())
    os.close(descriptor)
