"""Worker processes that ask for work one message at a time; a dead one is replaced, and its work is done again, once.

A worker only speaks when it is spoken to, or says that it waits for the next message; so neither side ever blocks on a
full pipe while the other does the same.
"""

import ctypes
import logging
import os
import signal
import sys
import threading
import traceback
from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from multiprocessing import connection, get_context, parent_process, resource_tracker
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any

from data_tools.errors import PreparationError

SHUTDOWN_SECONDS = 5.0
PR_SET_PDEATHSIG = 1
PRELOADED = "data_tools.stages.run"
MAX_DEATHS = 2
"""Of workers at one piece of work."""

logger = logging.getLogger(__name__)


class WorkerDiedError(PreparationError):
    """A worker process ended before it was told to."""

    def __init__(self, message: str, *, worker: int, pid: int, number: int, signal: int = 0) -> None:
        super().__init__(message)
        self.worker, self.pid = worker, pid
        self.number = number
        """Of the process among those that the pool has had."""
        self.signal = signal
        """What killed it, if something did."""


@dataclass(frozen=True, kw_only=True)
class _Failure:
    """What a worker says before it ends."""

    message: str
    is_expected: bool
    """Whether the message is for the user as it is."""


Serve = Callable[..., None]
"""Takes a `Connection`, a number that no other process of the pool has or had, and the pool's arguments; returns when
it is sent None."""


class WorkerPool:
    """Processes that each run `serve(connection, number, *arguments)`; leaving the block ends them all.

    Args:
        serve: a function at module top.
        arguments: what each process is told at its start.
        memory_hint: what to do when a process needs more memory than there is.
    """

    def __init__(
        self,
        serve: Serve,
        *,
        num_workers: int,
        arguments: tuple[Any, ...],
        memory_hint: str = "use fewer data_prep.num_workers",
    ) -> None:
        self._memory_hint = memory_hint
        self._serve, self._arguments = serve, arguments
        self._num_started = 0
        self._deaths: Counter[Hashable] = Counter()
        self._has_spoken = [False] * num_workers
        self.tasks = ["its start"] * num_workers
        """What each worker is at, in words, for messages about its end."""
        self._processes: list[Any] = []
        self._numbers = [0] * num_workers
        """What each process was told of its place among those that the pool has had."""
        self._connections: list[Connection] = []
        # It unblocks the signal that `_start` blocks, when it is not there yet.
        resource_tracker.ensure_running()
        try:
            for worker in range(num_workers):
                self._numbers[worker] = self._num_started
                process, ours = self._start()
                self._processes.append(process)
                self._connections.append(ours)
        except BaseException:
            for process in self._processes:
                process.kill()
            raise

    def _start(self) -> tuple[Any, Connection]:
        # A fork of this process would copy locks that other threads (progress bars) hold. A server without threads that
        # has imported what the stages need starts a process in a twentieth of a new interpreter's time.
        context = get_context("forkserver")
        context.set_forkserver_preload([PRELOADED])
        ours, theirs = context.Pipe()
        arguments = (self._serve, theirs, self._num_started, self._arguments)
        process = context.Process(target=_run, args=arguments, daemon=True)
        self._num_started += 1
        # Ctrl-C reaches the whole group, and the parent alone acts on it. A new process inherits the mask, so that it
        # holds before its first line runs; here the signal is only put off.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        theirs.close()
        return process, ours

    def is_gone(self, death: WorkerDiedError) -> bool:
        """Whether a death is that of a process that was replaced already."""
        return bool(self._processes[death.worker].pid != death.pid)

    def replace(self, death: WorkerDiedError, *, work: Hashable) -> None:
        """Start a process in place of a dead one.

        Args:
            work: what it was at; None where it waited for work.
        Raises:
            WorkerDiedError: it is the second death at this work.
        """
        worker = death.worker
        if work is None and not self._has_spoken[worker]:
            work = "start"
        if work is not None:
            self._deaths[work] += 1
            if self._deaths[work] >= MAX_DEATHS:
                raise WorkerDiedError(
                    f"for the second time, {death}", worker=worker, pid=death.pid, number=death.number
                )
        logger.warning("warning: %s; another process does it again", death)
        self._connections[worker].close()
        self._has_spoken[worker] = False
        self.tasks[worker] = "its start"
        self._numbers[worker] = self._num_started
        self._processes[worker], self._connections[worker] = self._start()

    def send(self, worker: int, message: Any) -> None:
        """Send a message to a worker that waits for one."""
        try:
            self._connections[worker].send(message)
        except OSError:
            raise self._death(worker) from None

    def send_bytes(self, worker: int, message: bytes) -> None:
        """Send bytes to a worker that waits for them."""
        try:
            self._connections[worker].send_bytes(message)
        except OSError:
            raise self._death(worker) from None

    def receive_bytes(self, worker: int) -> bytes:
        """Take the bytes that a worker was told to send."""
        try:
            return self._connections[worker].recv_bytes()
        except (EOFError, OSError):
            raise self._death(worker) from None

    def wait(self, *, timeout_seconds: float | None = None) -> list[tuple[int, Any]]:
        """Wait for messages; at most one of each worker, none when the time is over.

        Returns:
            Workers with their messages; a `WorkerDiedError` in place of the message of one that is dead.
        Raises:
            PreparationError: a worker failed.
        """
        messages = []
        for ready in connection.wait(self._connections, timeout_seconds):
            worker = self._connections.index(ready)  # type: ignore[arg-type]
            try:
                message = self._connections[worker].recv()
                self._has_spoken[worker] = True
            except (EOFError, OSError):
                message = self._death(worker)
            if isinstance(message, _Failure):
                if message.is_expected:
                    raise PreparationError(message.message)
                raise PreparationError(f"a worker failed at {self.tasks[worker]}:\n{message.message}")
            messages.append((worker, message))
        return messages

    def _death(self, worker: int) -> WorkerDiedError:
        process = self._processes[worker]
        process.join(SHUTDOWN_SECONDS)
        code = process.exitcode
        how = f"was killed by signal {-code} ({signal.Signals(-code).name})" if code and code < 0 else f"ended ({code})"
        hint = ""
        if code == -signal.SIGKILL:
            hint = f"; if nobody killed it, the machine ran out of memory: {self._memory_hint}"
        message = f"worker process {process.pid} {how} at {self.tasks[worker]}{hint}"
        killed_by = -code if code and code < 0 else 0
        return WorkerDiedError(message, worker=worker, pid=process.pid, number=self._numbers[worker], signal=killed_by)

    def __enter__(self) -> "WorkerPool":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker, process in enumerate(self._processes):
            if error is not None:
                process.kill()
            else:
                try:
                    self._connections[worker].send(None)
                except OSError:
                    process.kill()
        for process in self._processes:
            process.join(SHUTDOWN_SECONDS)
            if process.is_alive():
                process.kill()
                process.join()
        for ours in self._connections:
            ours.close()


def _run(serve: Serve, theirs: Connection, number: int, arguments: tuple[Any, ...]) -> None:
    _end_with_parent()
    try:
        serve(theirs, number, *arguments)
    except BaseException as error:
        is_expected = isinstance(error, PreparationError)
        message = str(error) if is_expected else traceback.format_exc()
        theirs.send(_Failure(message=message, is_expected=is_expected))


def _end_with_parent() -> None:
    """Make this process leave at once when its parent is gone, whatever it is at."""
    parent = parent_process()
    assert parent is not None
    if sys.platform == "linux":
        # The kernel's own way: no thread gets to run while SentencePiece trains.
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)

    def wait_for_parent() -> None:
        connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=wait_for_parent, daemon=True).start()
