"""Worker processes that receive work one message at a time; a dead one is replaced, and its work is retried once.

A worker sends only in reply, or while it waits for the next message, so parent and worker never block on full pipes at
the same time.
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
"""Deaths of workers at the same work after which the stage stops."""

logger = logging.getLogger(__name__)


class WorkerDiedError(PreparationError):
    """A worker process ended unexpectedly."""

    def __init__(self, message: str, *, worker: int, pid: int, number: int, signal: int = 0) -> None:
        super().__init__(message)
        self.worker, self.pid = worker, pid
        self.number = number
        """Number of the process among all that the pool has started."""
        self.signal = signal
        """The signal that killed it, or 0."""


@dataclass(frozen=True, kw_only=True)
class _Failure:
    """The last message of a failing worker."""

    message: str
    is_expected: bool
    """Whether the message can be shown to the user as it is."""


Serve = Callable[..., None]
"""Takes a `Connection`, a number that no other process of the pool has or had, and the pool's arguments; returns when
it receives None."""


class WorkerPool:
    """Start processes that each run `serve(connection, number, *arguments)`; leaving the block ends them all.

    Args:
        serve: a module-level function.
        arguments: passed to each process at its start.
        memory_hint: what the user can do when a process runs out of memory.
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
        self.tasks = ["startup"] * num_workers
        """What each worker is processing, for messages about its death."""
        self._processes: list[Any] = []
        self._numbers = [0] * num_workers
        """The number of each process among all that the pool has started."""
        self._connections: list[Connection] = []
        # Starting it later would unblock the signal that `_start` blocks.
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
        # A fork of this process would copy locks that other threads (progress bars) hold. A fork server without threads
        # that has imported the stages starts a process in a twentieth of a new interpreter's time.
        context = get_context("forkserver")
        context.set_forkserver_preload([PRELOADED])
        ours, theirs = context.Pipe()
        arguments = (self._serve, theirs, self._num_started, self._arguments)
        process = context.Process(target=_run, args=arguments, daemon=True)
        self._num_started += 1
        # Ctrl-C reaches the whole process group, and only the parent handles it. A new process inherits the mask, so
        # that it holds from its first line on; in this process the signal is only deferred.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        theirs.close()
        return process, ours

    def is_gone(self, death: WorkerDiedError) -> bool:
        """Return whether the dead process has already been replaced."""
        return bool(self._processes[death.worker].pid != death.pid)

    def replace(self, death: WorkerDiedError, *, work: Hashable) -> None:
        """Start a new process in place of a dead one.

        Args:
            work: what it was processing; None where it was idle.
        Raises:
            WorkerDiedError: it is the second death at this work.
        """
        worker = death.worker
        if work is None and not self._has_spoken[worker]:
            work = "start"
        if work is not None:
            self._deaths[work] += 1
            if self._deaths[work] >= MAX_DEATHS:
                message = f"{death} This was the second attempt."
                raise WorkerDiedError(message, worker=worker, pid=death.pid, number=death.number)
        logger.warning("warning: %s Retrying on a new worker.", death)
        self._connections[worker].close()
        self._has_spoken[worker] = False
        self.tasks[worker] = "startup"
        self._numbers[worker] = self._num_started
        self._processes[worker], self._connections[worker] = self._start()

    def send(self, worker: int, message: Any) -> None:
        """Send a message to a waiting worker."""
        try:
            self._connections[worker].send(message)
        except OSError:
            raise self._death(worker) from None

    def send_bytes(self, worker: int, message: bytes) -> None:
        """Send bytes to a waiting worker."""
        try:
            self._connections[worker].send_bytes(message)
        except OSError:
            raise self._death(worker) from None

    def receive_bytes(self, worker: int) -> bytes:
        """Receive the bytes that a worker was asked for."""
        try:
            return self._connections[worker].recv_bytes()
        except (EOFError, OSError):
            raise self._death(worker) from None

    def wait(self, *, timeout_seconds: float | None = None) -> list[tuple[int, Any]]:
        """Wait for messages: at most one per worker, none at the timeout.

        Returns:
            Workers with their messages; for a dead worker a `WorkerDiedError`.
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
                raise PreparationError(f"A worker failed while processing {self.tasks[worker]}:\n{message.message}")
            messages.append((worker, message))
        return messages

    def _death(self, worker: int) -> WorkerDiedError:
        process = self._processes[worker]
        process.join(SHUTDOWN_SECONDS)
        code = process.exitcode
        is_killed = code is not None and code < 0
        how = f"was killed ({signal.Signals(-code).name})" if is_killed else f"ended with exit code {code}"
        hint = f"; probably out of memory: {self._memory_hint}" if code == -signal.SIGKILL else ""
        message = (
            f"Worker {self._numbers[worker]} (pid {process.pid}) {how} while processing {self.tasks[worker]}{hint}."
        )
        killed_by = -code if is_killed else 0
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
    end_with_parent()
    try:
        serve(theirs, number, *arguments)
    except BaseException as error:
        is_expected = isinstance(error, PreparationError)
        message = str(error) if is_expected else traceback.format_exc()
        theirs.send(_Failure(message=message, is_expected=is_expected))


def end_with_parent() -> None:
    """Make this process end as soon as its parent is gone."""
    parent = parent_process()
    assert parent is not None
    if sys.platform == "linux":
        # By the kernel, since no Python thread runs while SentencePiece trains.
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)

    def wait_for_parent() -> None:
        connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=wait_for_parent, daemon=True).start()
