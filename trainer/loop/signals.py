"""Handle stop signals: a signal to any process stops all processes after the same step."""

import logging
import os
import signal
import socket
import threading
from collections.abc import Callable
from types import FrameType, TracebackType

import torch
from torch import distributed

from trireme.errors import EXIT_PEER_FAILED, EXIT_REQUEUE
from trireme.logging import EVERY_RANK, FILE_ONLY
from trireme.processes import has_failure, leave_exit_code
from trireme.stop_signals import WARNINGS, Repetitions, heeded_signals

_LOGGER = logging.getLogger(__name__)


class StopRequest:
    """Record the first signal after `defer` was called; before that, and at the second signal, exit immediately.

    A thread receives the signals: Python runs a handler only when the main thread returns from C++, which it does not
    while it waits for other processes. `with StopRequest() as stop` restores the previous handlers at the end. Signals
    that are ignored at the start stay ignored.
    """

    def __init__(self) -> None:
        self._signal: int | None = None
        self._repetitions = Repetitions()
        self._is_deferred = False
        self._peer_failed: Callable[[], bool] = has_failure
        self._heeded = heeded_signals()
        self._former: dict[int, object] = {}

    def __enter__(self) -> "StopRequest":
        self._receiver, self._sender = socket.socketpair()
        self._sender.setblocking(False)
        self._thread = threading.Thread(target=self._receive_signals, name="signals", daemon=True)
        self._thread.start()
        self._former_descriptor = signal.set_wakeup_fd(self._sender.fileno(), warn_on_full_buffer=False)
        for number in self._heeded:
            self._former[number] = signal.signal(number, _do_nothing)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        signal.set_wakeup_fd(self._former_descriptor)
        self._sender.close()
        self._thread.join()
        self._receiver.close()

    def defer(self, peer_failed: Callable[[], bool] = has_failure) -> None:
        """Finish the current step and save on a signal from now on.

        Args:
            peer_failed: whether another rank has exited, so that no step can be finished: torchrun then terminates the
                others with the same signal that otherwise requests a stop.
        """
        self._peer_failed = peer_failed
        self._is_deferred = True

    def agree(self, *, has_failed: bool = False, device: torch.device) -> tuple[bool, bool]:
        """Return whether any process received a stop signal, and whether any has failed; all ranks call this.

        Returns:
            Both, the same on every rank.
        """
        flags = torch.tensor([self._signal or 0, int(has_failed)], device=device)
        if distributed.is_initialized():
            distributed.all_reduce(flags, op=distributed.ReduceOp.MAX)
        is_stopping, has_any_failed = flags.tolist()
        return bool(is_stopping), bool(has_any_failed)

    def _receive_signals(self) -> None:
        while numbers := self._receiver.recv(64):
            for number in numbers:
                if number in self._heeded:
                    self._handle(number)

    def _handle(self, number: int) -> None:
        name = signal.Signals(number).name
        if has_failure() or self._peer_failed():
            # torchrun terminates this process because of another one, which it names.
            _LOGGER.warning("Exiting: another rank has exited, and the launcher sent %s.", name, extra=FILE_ONLY)
            os._exit(EXIT_PEER_FAILED)
        elif not self._is_deferred:
            _LOGGER.warning("Received %s before training began: exiting. There is nothing to save.", name)
            _leave()
        elif not self._repetitions.is_request(number):
            return
        elif self._signal is None:
            self._signal = number
            again = "" if number in WARNINGS else " Send it again to exit immediately."
            _LOGGER.warning("Received %s: will finish the current step, save a checkpoint and exit.%s", name, again)
        else:
            _LOGGER.warning("Received %s again: exiting immediately.", name, extra=EVERY_RANK)
            _leave()


def _leave() -> None:
    leave_exit_code(EXIT_REQUEUE)
    os._exit(EXIT_REQUEUE)


def _do_nothing(number: int, frame: FrameType | None) -> None:
    """Replace the signal's default action; the thread has its number already."""
