"""Fork the ranks of a host without CUDA from the launcher, once it has imported what they need.

Importing PyTorch, Megatron-Core and DeepSpeed takes a process seconds, and N ranks up to N times as long on a host with
few cores. So the launcher imports them once and forks the ranks before torchrun starts its threads. Each waits until
torchrun sends it arguments, environment and outputs. From then on it is like any other process of torchrun: its child,
in its own session, with its own exit code.

CUDA does not survive a fork: with a device, and with TRIREME_FORK_RANKS=0, each rank starts cold.
"""

import atexit
import contextlib
import gc
import importlib
import logging
import os
import pickle
import runpy
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

from trireme.stop_signals import once, suspend_with

SWITCH = "TRIREME_FORK_RANKS"
"""Environment variable: 0 starts every rank cold."""

PRELOADED = ("trainer.run",)
"""The modules that `trainer.train` imports."""

_POLL_SECONDS = 0.01
_LENGTH_BYTES = 8


@dataclass(frozen=True, kw_only=True)
class Start:
    """Hold what a waiting rank needs to start."""

    module: str
    arguments: tuple[str, ...]
    environment: Mapping[str, str]


def is_wanted() -> bool:
    """Return whether the environment allows forked ranks."""
    return os.environ.get(SWITCH) != "0"


def preload() -> bool:
    """Import what ranks need, as they would; return False if they must start cold."""
    import torch  # noqa: PLC0415 - after torchrun's defaults are in the environment, which torch reads

    from trireme.logging import quiet_libraries  # noqa: PLC0415 - as above

    if torch.accelerator.is_available():
        return False
    quiet_libraries()
    silence = logging.NullHandler()  # a rank writes such messages to its log; here they would reach the console
    logging.getLogger().addHandler(silence)
    try:
        for name in PRELOADED:
            importlib.import_module(name)
    except Exception:
        return False  # the ranks raise the same error, and print it themselves
    finally:
        logging.getLogger().removeHandler(silence)
    return True


class ForkedRank:
    """A child process that waits for its start; torchrun uses it like a `subprocess.Popen`."""

    def __init__(self, pid: int, connection: socket.socket) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._connection = connection

    def begin(self, start: Start, *, outputs: Sequence[int]) -> None:
        """Start it.

        Args:
            outputs: two descriptors, its stdout and stderr.
        """
        data = pickle.dumps(start)
        socket.send_fds(self._connection, [len(data).to_bytes(_LENGTH_BYTES, "little")], list(outputs))
        self._connection.sendall(data)
        self._connection.close()

    def poll(self) -> int | None:
        """Return the exit code, or minus the number of the signal that killed it; None while it runs."""
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its exit.

        Raises:
            subprocess.TimeoutExpired: it still runs.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while (code := self.poll()) is None:
            if deadline is not None and time.monotonic() > deadline:
                raise subprocess.TimeoutExpired("a forked rank", timeout or 0.0)
            time.sleep(_POLL_SECONDS)
        return code

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has exited."""
        if self.poll() is None:
            os.kill(self.pid, number)


@dataclass(kw_only=True)
class WaitingRanks:
    """Hold the forked ranks that have not started; those that never start exit with their launcher."""

    ranks: list[ForkedRank] = field(default_factory=list)

    def begin(
        self, command: Sequence[str], *, environment: Mapping[str, str], outputs: Sequence[int]
    ) -> ForkedRank | None:
        """Run the command in one of them; return None if it is no `python -u -m MODULE ...`, or no rank waits."""
        if not self.ranks or tuple(command[:3]) != (sys.executable, "-u", "-m"):
            return None
        rank = self.ranks.pop(0)
        rank.begin(Start(module=command[3], arguments=tuple(command[4:]), environment=environment), outputs=outputs)
        return rank


def fork_ranks(count: int) -> WaitingRanks:
    """Fork processes that wait for their start; call it while this process has a single thread."""
    gc.collect()
    gc.freeze()  # garbage collection does not write to memory that the ranks share with this process
    ranks: list[ForkedRank] = []
    connections: list[socket.socket] = []
    for _ in range(count):
        ours, theirs = socket.socketpair()
        pid = os.fork()
        if pid == 0:
            for other in (*connections, ours):
                other.close()
            _wait_and_run(theirs)
        theirs.close()
        connections.append(ours)
        ranks.append(ForkedRank(pid, ours))
    gc.unfreeze()
    return WaitingRanks(ranks=ranks)


@contextlib.contextmanager
def torchrun_starts(waiting: WaitingRanks, *, on_start: Callable[[], object] = lambda: None) -> Iterator[None]:
    """Let torchrun use the waiting ranks before it starts new processes, and suspend and continue with them.

    Args:
        on_start: called before each process starts.
    """
    from torch.distributed.elastic import multiprocessing as torchrun  # noqa: PLC0415 - as in preload
    from torch.distributed.elastic.multiprocessing.subprocess_handler import (  # noqa: PLC0415 - as in preload
        SubprocessHandler,
    )

    pids: list[int] = []

    class ForkingHandler(SubprocessHandler):
        """torchrun's handle of one process, which may be forked."""

        def _popen(self, args: tuple[str, ...], env: dict[str, str]) -> Any:
            on_start()
            outputs = [
                stream.fileno() if stream else default for stream, default in ((self._stdout, 1), (self._stderr, 2))
            ]
            process = waiting.begin(args, environment=env, outputs=outputs) or super()._popen(args, env)
            pids.append(process.pid)
            return process

    api: Any = torchrun.api
    former = api.get_subprocess_handler, api._terminate_process_handler
    api.get_subprocess_handler, api._terminate_process_handler = ForkingHandler, once(former[1])
    suspend_with(pids)
    try:
        yield
    finally:
        api.get_subprocess_handler, api._terminate_process_handler = former


def _wait_and_run(connection: socket.socket) -> None:
    """Run a forked rank; never returns."""
    code = 1
    try:
        os.setsid()
        start = _receive(connection)
        code = 0 if start is None else run_module(start)
    finally:
        os._exit(code)


def _receive(connection: socket.socket) -> Start | None:
    """Wait for the start and take over its outputs; return None if the launcher has exited without one."""
    header, descriptors, _, _ = socket.recv_fds(connection, _LENGTH_BYTES, 2)
    if len(header) < _LENGTH_BYTES:
        return None
    for standard, descriptor in enumerate(descriptors, start=1):
        os.dup2(descriptor, standard)
        os.close(descriptor)
    with connection.makefile("rb") as stream:
        start: Start = pickle.loads(stream.read(int.from_bytes(header, "little")))
    connection.close()
    return start


def run_module(start: Start) -> int:
    """Do in this forked process what `python -u -m MODULE ARGUMENTS` does in a new one; return its exit code."""
    os.environ.clear()
    os.environ.update(start.environment)
    _set_num_threads()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(line_buffering=True, write_through=True)
    sys.argv = [start.module, *start.arguments]
    try:
        runpy.run_module(start.module, run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as leaving:
        code = _code_of(leaving)
    except KeyboardInterrupt:
        sys.excepthook(*sys.exc_info())
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
        code = 1
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    return code


def _set_num_threads() -> None:
    """Set PyTorch's number of threads from OMP_NUM_THREADS; at import it read the launcher's."""
    torch: ModuleType | None = sys.modules.get("torch")
    number = os.environ.get("OMP_NUM_THREADS", "")
    if torch is not None and number.isdigit() and int(number) > 0 and torch.get_num_threads() != int(number):
        torch.set_num_threads(int(number))


def _code_of(leaving: SystemExit) -> int:
    """Return the exit code as the interpreter does: None is 0, a number is itself, anything else is printed."""
    if leaving.code is None:
        return 0
    if isinstance(leaving.code, int):
        return leaving.code & 0xFF
    print(leaving.code, file=sys.stderr)
    return 1


@contextlib.contextmanager
def quiet_interrupt() -> Iterator[None]:
    """Let Ctrl-C end this process immediately, without the traceback of an import in progress."""
    former = signal.getsignal(signal.SIGINT)
    if former is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, former)
