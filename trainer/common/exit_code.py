"""How a process tells the launcher above torchrun what its exit code was; torchrun forgets it when a signal ends it."""

import os
from pathlib import Path

from trainer.common.errors import EXIT_OK, EXIT_REQUEUE

EXIT_CODE_FILE = "TRIREME_EXIT_CODE_FILE"
"""Environment variable: where the main process, or one that failed, leaves its exit code."""

STORE_FILE = "TRIREME_STORE_FILE"
"""Environment variable: where the ranks of one host leave the address of the job's store for their launcher."""


def leave_exit_code(code: int, *, only_first: bool = False) -> None:
    """Write the code for the launcher, if there is one.

    Args:
        only_first: leave the code that another process has left, which says more.
    """
    path = os.environ.get(EXIT_CODE_FILE)
    if path and not (only_first and read_exit_code(Path(path)) is not None):
        Path(path).write_text(str(code))


def read_exit_code(path: Path) -> int | None:
    """The code that was left, or None."""
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def has_failure() -> bool:
    """Whether a process of this host has left the code of a failure, so that waiting for it is in vain."""
    path = os.environ.get(EXIT_CODE_FILE)
    return path is not None and read_exit_code(Path(path)) not in (None, EXIT_OK, EXIT_REQUEUE)
