"""What a user reads when the input is wrong: every violation at once, then exit code 2."""

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from trireme.progress import format_number

EXIT_OK = 0
EXIT_STOPPED = 1
"""A command began, and could not end what it was asked for."""
EXIT_BAD_INPUT = 2
EXIT_REQUEUE = 75
"""EX_TEMPFAIL of sysexits.h: the run saved its state and asks to be started again."""
EXIT_HANG = 79
"""The run no longer got on, and its watchdog ended it."""
EXIT_REPLICAS_DIFFER = 80
"""Ranks that hold copies of the same weights hold different bits."""
EXIT_PEER_FAILED = 81
"""This process left because another one of the run is gone; that one, or its launcher, says why."""
EXIT_NOT_RECOVERED = 82
"""Training went wrong, and going back to a checkpoint has not helped, or there was none."""


@dataclass(frozen=True, kw_only=True)
class Violation:
    """One thing that is wrong with a configuration or an input: `path: message (got value). Fix`."""

    path: str
    """The setting, such as `parallel.tensor_model_parallel_size`, the command-line option, or the file."""
    value: Any
    """What it holds; empty where the message says it, or where there is nothing to show."""
    message: str
    """What is wrong, as a clause without the path: `must be at least 1`."""
    fix: str
    """What the user can do, as a sentence."""

    def __str__(self) -> str:
        got = f" (got {self.value})" if str(self.value) else ""
        fix = self.fix.strip()
        return f"{self.path}: {self.message}{got}. {fix[:1].upper()}{fix[1:]}".rstrip()


class ConfigError(Exception):
    """The configuration or an input cannot be used; carries all violations that were found."""

    def __init__(self, violations: Iterable[Violation]) -> None:
        self.violations = tuple(violations)
        super().__init__("\n".join(str(v) for v in self.violations))


class RunStopped(Exception):
    """A run cannot go on; the message says all that there is to say, so no traceback is shown."""

    def __init__(self, message: str, *, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def raise_if_any(violations: Iterable[Violation]) -> None:
    """Raise one `ConfigError` that carries all of them; return when there are none."""
    found = tuple(violations)
    if found:
        raise ConfigError(found)


def format_config_error(error: ConfigError, *, outcome: str = "nothing was started") -> str:
    """Render all violations, one a line, under a line that counts them and says what follows."""
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
        if str(error):  # what all ranks raise, one tells
            print(error, file=sys.stderr, flush=True)
        return exit_code_for(error)


def exit_code_for(error: BaseException) -> int:
    """The exit code of a command that ends with this error."""
    if isinstance(error, RunStopped):
        return error.exit_code
    return EXIT_BAD_INPUT if isinstance(error, ConfigError) else EXIT_STOPPED
