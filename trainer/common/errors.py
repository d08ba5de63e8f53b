"""What a user reads when the input is wrong: every violation at once, then exit code 2."""

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

EXIT_OK = 0
EXIT_STOPPED = 1
"""A command began, and could not end what it was asked for."""
EXIT_BAD_INPUT = 2
EXIT_REQUEUE = 75
"""EX_TEMPFAIL of sysexits.h: the run saved its state and asks to be started again."""


@dataclass(frozen=True, kw_only=True)
class Violation:
    """One broken rule.

    `path` is where the value stands (a config path such as `parallel.tensor_model_parallel_size`, or a file),
    `value` what stands there, `rule` why it cannot be, `fix` what would be accepted.
    """

    path: str
    value: Any
    rule: str
    fix: str

    def __str__(self) -> str:
        return f"{self.path}={self.value} {self.rule}; {self.fix}"


class ConfigError(Exception):
    """The configuration or an input cannot be used; carries all violations that were found."""

    def __init__(self, violations: Iterable[Violation]) -> None:
        self.violations = tuple(violations)
        super().__init__("\n".join(str(v) for v in self.violations))


def raise_if_any(violations: Iterable[Violation]) -> None:
    """Raise one `ConfigError` that carries all of them; return when there are none."""
    found = tuple(violations)
    if found:
        raise ConfigError(found)


def format_config_error(error: ConfigError) -> str:
    """Render all violations, one a line, under a line that counts them."""
    count = len(error.violations)
    lines = [f"{count} problem{'s' if count != 1 else ''} found; nothing was started:"]
    lines += [f"  {number}. {violation}" for number, violation in enumerate(error.violations, start=1)]
    return "\n".join(lines)


def exit_code_of(main: Callable[[], int | None]) -> int:
    """Run a command's body; a `ConfigError` becomes its message on stderr and exit code 2, without a traceback."""
    try:
        return main() or EXIT_OK
    except ConfigError as error:
        print(format_config_error(error), file=sys.stderr, flush=True)
        return EXIT_BAD_INPUT
