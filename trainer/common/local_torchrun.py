"""How processes of this project are started on this host: torchrun, the cores they get, the names they show."""

import contextlib
import os
import sys
from collections.abc import Mapping
from pathlib import Path


def torchrun_here(num_processes: int) -> list[str]:
    """The command, up to and without what the processes run. Port 0 lets several of them share a host."""
    torchrun = [sys.executable, "-m", "trainer.torchrun", "--nproc-per-node", str(num_processes)]
    return [*torchrun, "--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0"]


def share_cores(environment: Mapping[str, str], *, num_processes: int) -> dict[str, str]:
    """An environment for the processes: cores shared out among them, unless the user did so."""
    num_threads = max(1, len(os.sched_getaffinity(0)) // num_processes)
    return {"OMP_NUM_THREADS": str(num_threads), **environment}


def name_process(rank: int) -> None:
    """Let ps and top tell ranks apart: those that are forked have the command line of their launcher."""
    with contextlib.suppress(OSError):  # Linux alone has the file
        Path("/proc/self/comm").write_text(f"rank {rank}")
