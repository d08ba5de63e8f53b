"""Track the run's processes: the host of each, those of this host that have exited, and their state in the system."""

import contextlib
import os
import select
import signal
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from torch import distributed

from trireme.bad_nodes import this_host


@dataclass(frozen=True, kw_only=True)
class RankProcess:
    """Hold one rank's process."""

    rank: int
    host: str
    launcher: str
    """Identifies the launcher that started it: ranks of one launcher can see each other's processes."""
    pid: int

    def __str__(self) -> str:
        return f"rank {self.rank} (pid {self.pid} on {self.host})"


def gather_processes() -> list[RankProcess]:
    """Return every rank's process, by rank; all ranks call this."""
    host = this_host()
    launcher = os.environ.get("GROUP_RANK", host)  # torchrun's number of the node
    own = RankProcess(rank=distributed.get_rank(), host=host, launcher=launcher, pid=os.getpid())
    everyone: list[dict[str, object] | None] = [None] * distributed.get_world_size()
    distributed.all_gather_object(everyone, asdict(own))
    return [RankProcess(**found) for found in everyone]  # type: ignore[arg-type]


class Siblings:
    """Hold the other ranks of this rank's launcher, by descriptors, which stay valid when pids are reused."""

    def __init__(self, processes: list[RankProcess], *, rank: int) -> None:
        here = processes[rank].launcher
        self._descriptors: dict[int, int] = {}
        self._processes = {p.rank: p for p in processes if p.launcher == here and p.rank != rank}
        for sibling in self._processes.values():
            with contextlib.suppress(ProcessLookupError):
                self._descriptors[sibling.rank] = os.pidfd_open(sibling.pid)
        self._never_seen = self._processes.keys() - self._descriptors.keys()

    def find_ended(self, *, except_for: Collection[int] = (), wake: int | None = None) -> list[RankProcess]:
        """Return the siblings that have exited.

        Args:
            except_for: ranks to ignore.
            wake: wait until one has exited or this descriptor is readable; None does not wait.
        """
        waiting = select.poll()
        if wake is not None:
            waiting.register(wake, select.POLLIN)
        rank_of = {fd: rank for rank, fd in self._descriptors.items() if rank not in except_for}
        for descriptor in rank_of:
            waiting.register(descriptor, select.POLLIN)
        lost = [rank for rank in self._never_seen if rank not in except_for]
        found = waiting.poll(0 if lost or wake is None else None)
        lost += [rank_of[descriptor] for descriptor, _ in found if descriptor in rank_of]
        return [self._processes[rank] for rank in sorted(lost)]

    def states(self) -> dict[int, str]:
        """Return the state of each sibling's process."""
        return {rank: describe_process(process.pid) for rank, process in self._processes.items()}

    def kill(self, rank: int) -> None:
        """Kill a sibling that does not respond: a stopped process receives no other signal."""
        if rank in self._descriptors:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._descriptors[rank], signal.SIGKILL)

    def close(self) -> None:
        """Close the descriptors."""
        while self._descriptors:
            os.close(self._descriptors.popitem()[1])


def is_stopped(pid: int) -> bool:
    """Return whether a process of this host has been stopped (SIGSTOP, Ctrl-Z) and not continued."""
    try:
        # The name in parentheses may contain any character.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in ("T", "t")
    except (OSError, IndexError):
        return False


def describe_process(pid: int) -> str:
    """Return state and kernel function of a process of this host, for example `T (stopped), in do_signal_stop`."""
    folder = Path("/proc", str(pid))
    try:
        lines = (folder / "status").read_text().splitlines()
    except OSError:
        return "exited"
    fields: Mapping[str, str] = dict(line.split(":", 1) for line in lines if ":" in line)
    state = " ".join(fields.get("State", "unknown").split())
    try:
        frames = [line.split()[-1].split("+")[0] for line in (folder / "stack").read_text().splitlines()]
    except OSError:  # readable by root only
        frames = []
    if not frames:
        with contextlib.suppress(OSError):
            frames = [(folder / "wchan").read_text().strip()]
    inside = " < ".join(frame for frame in frames[:4] if frame not in ("", "0"))
    return f"{state}, in {inside}" if inside else state
