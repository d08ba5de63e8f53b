"""Start processes on one host with torchrun, and return their exit codes to the launcher."""

import contextlib
import ipaddress
import os
import socket
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from trireme.cores import count_cores
from trireme.errors import EXIT_OK, EXIT_REQUEUE

EXIT_CODE_FILE = "TRIREME_EXIT_CODE_FILE"
"""Environment variable: file in which the main process, or one that failed, writes its exit code."""

STORE_FILE = "TRIREME_STORE_FILE"
"""Environment variable: file in which the ranks of one host write the address of the job's store for their launcher."""

CONFIG_DESCRIPTOR = "TRIREME_CONFIG_DESCRIPTOR"
"""Environment variable: the descriptor of an open file with the configuration that `launch.local` has composed."""


def global_rank() -> int:
    """Return this process's number in its job, as the launcher set it (RANK); 0 for a process started by hand."""
    return int(os.environ.get("RANK", "0"))


def local_rank() -> int:
    """Return this process's number on its host (LOCAL_RANK); 0 for a process started by hand."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def world_size() -> int:
    """Return the number of processes of the job (WORLD_SIZE); 1 for a process started by hand."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def leave_exit_code(code: int, *, only_first: bool = False) -> None:
    """Write the code for the launcher, if there is one.

    Args:
        only_first: keep the code that another process wrote before, which is closer to the cause.
    """
    path = os.environ.get(EXIT_CODE_FILE)
    if path and not (only_first and read_exit_code(Path(path)) is not None):
        Path(path).write_text(str(code))


def read_exit_code(path: Path) -> int | None:
    """Return the code that was written, or None."""
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def has_failure() -> bool:
    """Return whether a process of this host has reported a failure, so that waiting for it is pointless."""
    path = os.environ.get(EXIT_CODE_FILE)
    return path is not None and read_exit_code(Path(path)) not in (None, EXIT_OK, EXIT_REQUEUE)


@contextlib.contextmanager
def config_handed_over(text: str) -> Iterator[dict[str, str]]:
    """Keep a configuration open for `trainer.torchrun`, which replaces this process inside the block.

    The file has no name on disk, so none is left behind even when a signal ends the run during its start.

    Yields:
        The environment variable that names the open file.
    """
    with tempfile.TemporaryFile() as file:
        file.write(text.encode())
        file.seek(0)
        os.set_inheritable(file.fileno(), True)
        yield {CONFIG_DESCRIPTOR: str(file.fileno())}


def take_config() -> str | None:
    """Return the configuration that `config_handed_over` passes on, and close its file; None without one."""
    descriptor = os.environ.pop(CONFIG_DESCRIPTOR, None)
    if descriptor is None:
        return None
    with open(int(descriptor), encoding="utf-8") as file:
        return file.read()


LOOPBACK = "127.0.0.1"


def torchrun_here(num_processes: int) -> list[str]:
    """Return the torchrun command, without the program that it starts. Port 0 lets several runs share a host."""
    torchrun = [sys.executable, "-m", "trainer.torchrun", "--nproc-per-node", str(num_processes)]
    return [*torchrun, "--rdzv-backend", "c10d", "--rdzv-endpoint", f"{LOOPBACK}:0"]


def set_omp_threads(environment: Mapping[str, str], *, num_processes: int) -> dict[str, str]:
    """Return the environment with OMP_NUM_THREADS set to each process's share of the cores, unless the user set it."""
    num_threads = max(1, count_cores() // num_processes)
    return {"OMP_NUM_THREADS": str(num_threads), **environment}


def is_loopback(endpoint: str) -> bool:
    """Return whether HOST:PORT or HOST is reachable from this host only."""
    host = endpoint.rpartition("]")[0].lstrip("[") or endpoint.partition(":")[0]
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def gloo_on_loopback() -> dict[str, str]:
    """Return the variable that binds gloo to the loopback device, whatever this host's name resolves to."""
    device = next((name for _, name in socket.if_nameindex() if name in ("lo", "lo0")), None)
    return {"GLOO_SOCKET_IFNAME": device} if device is not None else {}


def loopback_variables() -> dict[str, str]:
    """Return the variables that keep a run on this host alone on the loopback device.

    torchrun and gloo look up this host's name otherwise. In containers, and on laptops behind a VPN, the name may not
    resolve, resolve to another address, or take minutes to resolve.
    """
    return {"PET_LOCAL_ADDR": LOOPBACK, **gloo_on_loopback()}


def name_process(rank: int) -> None:
    """Name this process `rank N` for ps and top: forked ranks have the command line of their launcher."""
    with contextlib.suppress(OSError):  # Linux alone has the file
        Path("/proc/self/comm").write_text(f"rank {rank}")
