"""Handle signals that ask a run to save and exit, and suspend and resume it as a whole."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Collection, Iterator
from types import FrameType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import subprocess

STOP_SIGNALS = (
    signal.SIGTERM,
    signal.SIGINT,
    # The terminal was closed.
    signal.SIGHUP,
    # Ctrl-\, and the stop signal of some containers. The steps since the last save are worth more than a core dump.
    signal.SIGQUIT,
    # Warnings of batch systems before the time limit: Slurm's --signal, Grid Engine's -notify.
    signal.SIGUSR1,
    signal.SIGUSR2,
)

WARNINGS = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
"""Signals that reach a process several ways: a repeated one is not a second request."""

SIGNAL_BASE = 128
"""Shells report a process that a signal terminated as 128 + the signal's number."""

REPETITION_SECONDS = 1.0
"""Ctrl-C reaches every process of the terminal, and launchers forward it to their children once more."""


def heeded_signals() -> list[signal.Signals]:
    """Return those of STOP_SIGNALS that the parent process has not set to be ignored; SIGTERM is always one.

    nohup ignores SIGHUP, a script SIGINT and SIGQUIT of what it starts with `&`, and the batch script of
    `launch.slurm` SIGUSR2. Call it before handlers are set.
    """
    return [
        number for number in STOP_SIGNALS if number == signal.SIGTERM or signal.getsignal(number) is not signal.SIG_IGN
    ]


class Repetitions:
    """Tell a second request from a repetition of the first one."""

    def __init__(self) -> None:
        self._first_at: float | None = None

    def is_request(self, number: int) -> bool:
        """Return whether this signal is a request: the first one, or one so much later that it is intended."""
        now = time.monotonic()
        if self._first_at is None:
            self._first_at = now
            return True
        return number not in WARNINGS and now - self._first_at > REPETITION_SECONDS


def once(handler: Callable[[int, FrameType | None], None]) -> Callable[[int, FrameType | None], None]:
    """Wrap a handler so that it ignores repetitions: closing a terminal sends SIGHUP up to three times."""
    repetitions = Repetitions()

    def handle(number: int, frame: FrameType | None) -> None:
        if repetitions.is_request(number):
            handler(number, frame)

    return handle


@contextlib.contextmanager
def signals_passed_to(process: "subprocess.Popen[Any]") -> Iterator[None]:
    """Forward stop signals to the process that this one waits for, which may have something to save.

    The terminal itself sends Ctrl-C and Ctrl-\\ to both.
    """

    def pass_on(number: int, frame: FrameType | None) -> None:
        if number not in (signal.SIGINT, signal.SIGQUIT) or not _has_terminal():
            process.send_signal(number)

    with _handled_by(pass_on, heeded_signals()):
        yield


def _has_terminal() -> bool:
    """Return whether Ctrl-C reaches this process and its children."""
    try:
        with open("/dev/tty", "rb", buffering=0) as terminal:
            return os.tcgetpgrp(terminal.fileno()) == os.getpgrp()
    except OSError:
        return False


@contextlib.contextmanager
def unwinding_on_signals() -> Iterator[None]:
    """Raise SystemExit on stop signals, and KeyboardInterrupt on Ctrl-C, so that this process cleans up.

    It terminates the processes that it has started, and deletes what it has not finished; repetitions of a signal do
    not disturb it.
    """

    def leave(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(SIGNAL_BASE + number)

    with _handled_by(once(leave), heeded_signals()):
        yield


@contextlib.contextmanager
def holding_signals() -> Iterator[None]:
    """Let stop signals wait until the block has ended: for what is short, and must not be left half done.

    In another thread than the main one, which gets no signals, it does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    waiting: list[int] = []
    try:
        with _handled_by(lambda number, frame: waiting.append(number), heeded_signals()):
            yield
    finally:
        for number in waiting[:1]:
            signal.raise_signal(number)


@contextlib.contextmanager
def _handled_by(
    handler: Callable[[int, FrameType | None], None], numbers: Collection[signal.Signals]
) -> Iterator[None]:
    """Install a handler for these signals, and restore the former ones afterwards."""
    former = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, one in former.items():
            signal.signal(number, one)


def suspend_with(pids: Collection[int]) -> None:
    """Suspend the process groups of these processes on Ctrl-Z as well, and resume them on `fg` and `bg`.

    Ranks have sessions of their own, so the terminal reaches their launcher alone: they would run on without its store.

    Args:
        pids: may grow later.
    """
    if signal.getsignal(signal.SIGTSTP) is not signal.SIG_DFL:
        return

    def send(number: int) -> None:
        for pid in list(pids):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, number)

    def suspend(number: int, frame: FrameType | None) -> None:
        send(signal.SIGSTOP)
        os.kill(os.getpid(), signal.SIGSTOP)
        send(signal.SIGCONT)  # this process has been continued

    signal.signal(signal.SIGTSTP, suspend)
