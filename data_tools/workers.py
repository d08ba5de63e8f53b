"""Worker processes that ask for work one message at a time; a dead one ends the run with the name of its input.

A worker only speaks when it is spoken to, or says that it waits for the next message; so neither side ever blocks on a
full pipe while the other does the same.
"""

import ctypes
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import connection, get_context, parent_process
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any

SHUTDOWN_SECONDS = 5.0
PR_SET_PDEATHSIG = 1


class PreparationError(Exception):
    """The preparation cannot go on; its message is for the user."""


@dataclass(frozen=True, kw_only=True)
class _Failure:
    """What a worker says before it ends."""

    message: str
    is_expected: bool
    """Whether the message is for the user as it is."""


Serve = Callable[..., None]
"""Takes a `Connection`, the worker's number and the pool's arguments; returns when it is sent None."""


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
        # spawn: a fork would copy locks that other threads (progress bars) hold.
        context = get_context("spawn")
        self._connections: list[Connection] = []
        self._processes: list[Any] = []
        self.tasks = ["its start"] * num_workers
        """What each worker is at, in words, for messages about its end."""
        for number in range(num_workers):
            ours, theirs = context.Pipe()
            process = context.Process(target=_run, args=(serve, theirs, number, arguments), daemon=True)
            # Ctrl-C reaches the whole group, and the parent alone acts on it. A new process inherits the mask, so that
            # it holds before its first line runs; here the signal is only put off.
            mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            try:
                process.start()
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            theirs.close()
            self._connections.append(ours)
            self._processes.append(process)

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

        Raises:
            PreparationError: a worker failed or was killed.
        """
        messages = []
        for ready in connection.wait(self._connections, timeout_seconds):
            worker = self._connections.index(ready)  # type: ignore[arg-type]
            try:
                message = self._connections[worker].recv()
            except (EOFError, OSError):
                raise self._death(worker) from None
            if isinstance(message, _Failure):
                if message.is_expected:
                    raise PreparationError(message.message)
                raise PreparationError(f"a worker failed at {self.tasks[worker]}:\n{message.message}")
            messages.append((worker, message))
        return messages

    def _death(self, worker: int) -> PreparationError:
        process = self._processes[worker]
        process.join(SHUTDOWN_SECONDS)
        code = process.exitcode
        how = f"was killed by signal {-code} ({signal.Signals(-code).name})" if code and code < 0 else f"ended ({code})"
        hint = ""
        if code == -signal.SIGKILL:
            hint = f"; if nobody killed it, the machine ran out of memory: {self._memory_hint}"
        return PreparationError(f"worker process {process.pid} {how} at {self.tasks[worker]}{hint}")

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
