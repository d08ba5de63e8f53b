"""Write a command's output, and end it cleanly when its reader leaves or its user interrupts it.

`COMMAND | head` closes the pipe after ten lines, and Ctrl-C interrupts a command: neither is an error, and neither
prints a traceback.
"""

import contextlib
import os
import sys
from collections.abc import Callable

from trireme.errors import EXIT_STOPPED, RunStopped, exit_code_of

EXIT_INTERRUPTED = 130
"""128 + SIGINT: the exit code that a shell reports for a process interrupted by Ctrl-C."""
EXIT_BROKEN_PIPE = 141
"""128 + SIGPIPE: the exit code that a shell reports for `yes` in `yes | head`."""


def run_command(main: Callable[[], int | None]) -> int:
    """Run the body of a command that finishes on its own, as `exit_code_of` does.

    Ctrl-C becomes exit code 130, and a closed stdout becomes 141, both without a message.
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
    """Write to stdout and flush.

    Raises:
        BrokenPipeError: the reader of stdout is gone.
        RunStopped: stdout cannot be written, such as a file on a full disk.
    """
    if sys.stdout is None:  # started with `>&-`
        return
    try:
        sys.stdout.write(text)
    except OSError as error:
        _explain(error)
    flush_output()


def flush_output() -> None:
    """Flush stdout.

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
    """Replace characters that the terminal's encoding lacks by question marks, instead of failing at the first one."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")


def _explain(error: OSError) -> None:
    if isinstance(error, BrokenPipeError):
        raise error
    _discard_output()
    raise RunStopped(
        f"stdout: cannot be written: {error.strerror}. Free disk space, or write the output elsewhere.",
        exit_code=EXIT_STOPPED,
    ) from error


def _discard_output() -> None:
    """Discard what Python still buffers for stdout: it would report an error for it when the process ends."""
    descriptor = os.open(os.devnull, os.O_WRONLY)
    os.dup2(descriptor, sys.stdout.fileno())
    os.close(descriptor)
