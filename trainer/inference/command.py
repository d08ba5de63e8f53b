"""Run the body of a command that several ranks may run together."""

import os
from collections.abc import Callable

from trireme.command import EXIT_INTERRUPTED, run_command
from trireme.logging import configure_logging
from trireme.processes import global_rank


def run_on_ranks(body: Callable[[], int | None]) -> int:
    """Run the body with this rank's logging, as `run_command` does; an interrupted rank does not wait for the others.

    Returns:
        The exit code.
    """
    configure_logging(rank=global_rank())
    try:
        code = run_command(body)
    except SystemExit as end:  # a stop signal
        if "RANK" in os.environ and isinstance(end.code, int):
            os._exit(end.code)
        raise
    if code == EXIT_INTERRUPTED and "RANK" in os.environ:
        os._exit(code)  # other ranks may wait for this one
    return code
