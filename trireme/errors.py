"""Report wrong input: all errors at once in one format, then exit code 2."""

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from trireme.progress import format_number

EXIT_OK = 0
EXIT_STOPPED = 1
"""A command started and failed."""
EXIT_BAD_INPUT = 2
EXIT_REQUEUE = 75
"""EX_TEMPFAIL of sysexits.h: the run saved a checkpoint and asks to be started again."""
EXIT_HANG = 79
"""The run hung, and its watchdog terminated it."""
EXIT_REPLICAS_DIFFER = 80
"""Replicas of the same weights differ between ranks."""
EXIT_PEER_FAILED = 81
"""This process exited because another process of the run failed; that one, or its launcher, reports the cause."""
EXIT_NOT_RECOVERED = 82
"""Training diverged, and rolling back to a checkpoint did not help, or there was none."""


@dataclass(frozen=True, kw_only=True)
class Violation:
    """Describe one error in a configuration or an input: `path: message (got value). Fix`."""

    path: str
    """The setting, such as `parallel.tensor_model_parallel_size`, the command-line option, or the file."""
    value: Any
    """The value found there; empty where the message contains it, or where there is none."""
    message: str
    """What is wrong, as a clause without the path: `must be at least 1`."""
    fix: str
    """What the user can do, as a sentence: `Use 1 or more.`"""

    def __str__(self) -> str:
        got = f" (got {self.value})" if str(self.value) else ""
        fix = self.fix.strip()
        return f"{self.path}: {self.message}{got}. {fix[:1].upper()}{fix[1:]}".rstrip()


class ConfigError(Exception):
    """Report an unusable configuration or input; carries all violations that were found."""

    def __init__(self, violations: Iterable[Violation]) -> None:
        self.violations = tuple(violations)
        super().__init__("\n".join(str(v) for v in self.violations))


class RunStopped(Exception):
    """Stop a run with a message that is complete, so that no traceback is printed."""

    def __init__(self, message: str, *, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def raise_if_any(violations: Iterable[Violation]) -> None:
    """Raise one `ConfigError` that carries all violations; return when there are none."""
    found = tuple(violations)
    if found:
        raise ConfigError(found)


def format_config_error(error: ConfigError, *, outcome: str = "nothing was started") -> str:
    """Render all violations, one per line, under a line with their number and the outcome."""
    lines = [f"{format_number(len(error.violations), 'error')}; {outcome}:"]
    lines += [f"  {number}. {violation}" for number, violation in enumerate(error.violations, start=1)]
    return "\n".join(lines)


def exit_code_of(main: Callable[[], int | None]) -> int:
    """Run a command's body; a `ConfigError` becomes its message on stderr and exit code 2, without a traceback.

    So does a `RunStopped`, with its own exit code.
    """
    try:
        return main() or EXIT_OK
    except ConfigError as error:
        print(format_config_error(error), file=sys.stderr, flush=True)
        return exit_code_for(error)
    except RunStopped as error:
        if str(error):  # all ranks raise it, one prints it
            print(error, file=sys.stderr, flush=True)
        return exit_code_for(error)


def exit_code_for(error: BaseException) -> int:
    """Return the exit code of a command that ends with this error."""
    if isinstance(error, RunStopped):
        return error.exit_code
    return EXIT_BAD_INPUT if isinstance(error, ConfigError) else EXIT_STOPPED
