"""The processes of this project on one host: how torchrun starts them, and how their exit codes come back."""

import contextlib
import ipaddress
import os
import socket
import sys
from collections.abc import Mapping
from pathlib import Path

from trireme.cores import count_cores
from trireme.errors import EXIT_OK, EXIT_REQUEUE

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


LOOPBACK = "127.0.0.1"


def torchrun_here(num_processes: int) -> list[str]:
    """The command, up to and without what the processes run. Port 0 lets several of them share a host."""
    torchrun = [sys.executable, "-m", "trainer.torchrun", "--nproc-per-node", str(num_processes)]
    return [*torchrun, "--rdzv-backend", "c10d", "--rdzv-endpoint", f"{LOOPBACK}:0"]


def set_omp_threads(environment: Mapping[str, str], *, num_processes: int) -> dict[str, str]:
    """An environment for the processes: cores shared out among them, unless the user did so."""
    num_threads = max(1, count_cores() // num_processes)
    return {"OMP_NUM_THREADS": str(num_threads), **environment}


def is_loopback(endpoint: str) -> bool:
    """Whether HOST:PORT or HOST can be reached from this host alone."""
    host = endpoint.rpartition("]")[0].lstrip("[") or endpoint.partition(":")[0]
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def gloo_on_loopback() -> dict[str, str]:
    """The variable by which gloo takes the loopback device, whatever this host's name resolves to."""
    device = next((name for _, name in socket.if_nameindex() if name in ("lo", "lo0")), None)
    return {"GLOO_SOCKET_IFNAME": device} if device is not None else {}


def loopback_variables() -> dict[str, str]:
    """Variables by which the processes of a run on this host alone meet on the loopback device.

    torchrun and gloo look up this host's name otherwise. In containers, and on laptops behind a VPN, it may be the
    name of nothing, or of another address, or the answer takes minutes.
    """
    return {"PET_LOCAL_ADDR": LOOPBACK, **gloo_on_loopback()}


def name_process(rank: int) -> None:
    """Let ps and top tell ranks apart: those that are forked have the command line of their launcher."""
    with contextlib.suppress(OSError):  # Linux alone has the file
        Path("/proc/self/comm").write_text(f"rank {rank}")
