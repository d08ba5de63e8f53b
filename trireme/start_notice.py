"""Print a line when a run starts: importing its libraries takes seconds, which would look like a hang."""

import contextlib
import os
import sys
import time
from collections.abc import MutableMapping

STARTED_AT = "TRIREME_STARTED_AT"
"""Environment variable: when the command was started, in seconds since 1970; its setter has printed the line."""


def announce_start(what: str, *, environment: MutableMapping[str, str] = os.environ) -> None:
    """Print on stderr what is imported, unless a parent process has; mark in the environment that it is printed.

    It does not say that the run starts: its input is still to be checked.

    Args:
        what: what the libraries are for: `run NAME (2 processes)`.
    """
    if STARTED_AT in environment:
        return
    environment[STARTED_AT] = str(time.time())
    with contextlib.suppress(OSError):  # the terminal may be closed
        print(f"Importing PyTorch, Megatron-Core and DeepSpeed for {what}", file=sys.stderr, flush=True)


def seconds_since_start() -> float | None:
    """Return the seconds since the command was started; None where that is unknown."""
    try:
        return time.time() - float(os.environ[STARTED_AT])
    except (KeyError, ValueError):
        return None
