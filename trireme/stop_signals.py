"""Signals that ask a run to save and leave, and what stops and continues it as a whole."""

import contextlib
import os
import signal
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
    # Ctrl-\, and what some containers are stopped with. No core is worth the steps since the last save.
    signal.SIGQUIT,
    # Warnings of batch systems before the time is up: Slurm's --signal, Grid Engine's -notify.
    signal.SIGUSR1,
    signal.SIGUSR2,
)

WARNINGS = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
"""These come to a process by several ways: one that comes again is no second request."""

SIGNAL_BASE = 128
"""Shells report a process that a signal ended as 128 + the signal's number."""

REPETITION_SECONDS = 1.0
"""Ctrl-C reaches every process of the terminal, and those that start others pass it on to them once more."""


def heeded_signals() -> list[signal.Signals]:
    """Those of STOP_SIGNALS that whoever started this process has not switched off; SIGTERM cannot be.

    nohup ignores SIGHUP, a script SIGINT and SIGQUIT of what it starts with `&`, and the batch script of
    `launch.slurm` SIGUSR2. Call it before handlers are set.
    """
    return [
        number for number in STOP_SIGNALS if number == signal.SIGTERM or signal.getsignal(number) is not signal.SIG_IGN
    ]


class Repetitions:
    """Tells a second request from the first one that comes again."""

    def __init__(self) -> None:
        self._first_at: float | None = None

    def is_request(self, number: int) -> bool:
        """Whether this signal asks for something: it is the first, or comes so much later that it is meant."""
        now = time.monotonic()
        if self._first_at is None:
            self._first_at = now
            return True
        return number not in WARNINGS and now - self._first_at > REPETITION_SECONDS


def once(handler: Callable[[int, FrameType | None], None]) -> Callable[[int, FrameType | None], None]:
    """A handler that leaves out repetitions: closing a terminal sends SIGHUP up to three times."""
    repetitions = Repetitions()

    def handle(number: int, frame: FrameType | None) -> None:
        if repetitions.is_request(number):
            handler(number, frame)

    return handle


@contextlib.contextmanager
def signals_passed_to(process: "subprocess.Popen[Any]") -> Iterator[None]:
    """Inside, what asks this process to stop goes to the one that it waits for, which may have something to save.

    Of Ctrl-C and Ctrl-\\ the terminal tells that one itself.
    """

    def pass_on(number: int, frame: FrameType | None) -> None:
        if number not in (signal.SIGINT, signal.SIGQUIT) or not _has_terminal():
            process.send_signal(number)

    with _handled_by(pass_on, heeded_signals()):
        yield


def _has_terminal() -> bool:
    """Whether Ctrl-C comes to this process and those that it has started."""
    try:
        with open("/dev/tty", "rb", buffering=0) as terminal:
            return os.tcgetpgrp(terminal.fileno()) == os.getpgrp()
    except OSError:
        return False


@contextlib.contextmanager
def unwinding_on_signals() -> Iterator[None]:
    """Inside, what asks this process to stop raises SystemExit, so that it ends the processes that it has started."""

    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(SIGNAL_BASE + number)

    with _handled_by(leave, [number for number in heeded_signals() if number != signal.SIGINT]):
        yield


@contextlib.contextmanager
def _handled_by(
    handler: Callable[[int, FrameType | None], None], numbers: Collection[signal.Signals]
) -> Iterator[None]:
    """Inside, these signals come to a handler; then the former ones are back."""
    former = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, one in former.items():
            signal.signal(number, one)


def suspend_with(pids: Collection[int]) -> None:
    """Have Ctrl-Z stop the process groups that these processes lead, too, and `fg` and `bg` continue them.

    Ranks have sessions of their own, so the terminal reaches their launcher alone: they would go on without its store.

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
