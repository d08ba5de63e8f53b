"""The first words of a run: importing its libraries takes seconds, and nobody is to take them for a hang."""

import contextlib
import os
import sys
import time
from collections.abc import MutableMapping

STARTED_AT = "TRIREME_STARTED_AT"
"""Environment variable: when the command was started, in seconds since 1970; whoever sets it has told the user."""


def announce_start(what: str, *, environment: MutableMapping[str, str] = os.environ) -> None:
    """Say on stderr what begins, unless a process above this one has; note in the environment that it is said."""
    if STARTED_AT in environment:
        return
    environment[STARTED_AT] = str(time.time())
    with contextlib.suppress(OSError):  # the terminal may be closed
        print(f"{what}: importing PyTorch, Megatron-Core and DeepSpeed", file=sys.stderr, flush=True)


def seconds_since_start() -> float | None:
    """How long ago the command was started; None where nobody knows."""
    try:
        return time.time() - float(os.environ[STARTED_AT])
    except (KeyError, ValueError):
        return None
