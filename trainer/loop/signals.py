"""Requests to stop from outside: a signal on any process stops all of them after the same step."""

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
    """Notes the first signal once `defer` has been called; before that, and at the second one, leaves at once.

    A thread takes the signals: Python runs a handler only when the main thread comes back from C++, and one that waits
    for other processes does not. `with StopRequest() as stop` puts the former handlers back at the end. Signals that
    are ignored when it begins stay ignored.
    """

    def __init__(self) -> None:
        self._signal: int | None = None
        self._repetitions = Repetitions()
        self._is_deferred = False
        self._is_in_vain: Callable[[], bool] = has_failure
        self._heeded = heeded_signals()
        self._former: dict[int, object] = {}

    def __enter__(self) -> "StopRequest":
        self._receiver, self._sender = socket.socketpair()
        self._sender.setblocking(False)
        self._thread = threading.Thread(target=self._take_signals, name="signals", daemon=True)
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

    def defer(self, is_in_vain: Callable[[], bool] = has_failure) -> None:
        """From now on there are steps to finish and weights to save.

        Args:
            is_in_vain: whether another rank is gone, so that no step can be finished: torchrun then ends the others
                with the signal that otherwise asks them to stop.
        """
        self._is_in_vain = is_in_vain
        self._is_deferred = True

    def agree(self, *, has_failed: bool = False, device: torch.device) -> tuple[bool, bool]:
        """Find out whether any process was asked to stop, and whether any has failed; all ranks call this alike.

        Returns:
            both, the same on every rank.
        """
        flags = torch.tensor([self._signal or 0, int(has_failed)], device=device)
        if distributed.is_initialized():
            distributed.all_reduce(flags, op=distributed.ReduceOp.MAX)
        is_stopping, has_any_failed = flags.tolist()
        return bool(is_stopping), bool(has_any_failed)

    def _take_signals(self) -> None:
        while numbers := self._receiver.recv(64):
            for number in numbers:
                if number in self._heeded:
                    self._take(number)

    def _take(self, number: int) -> None:
        name = signal.Signals(number).name
        if has_failure() or self._is_in_vain():
            # torchrun ends this process because of another one, which it names.
            _LOGGER.warning("leaving: another rank is gone, and %s came from the launcher", name, extra=FILE_ONLY)
            os._exit(EXIT_PEER_FAILED)
        elif not self._is_deferred:
            _LOGGER.warning("%s: leaving; training had not begun", name)
            _leave()
        elif not self._repetitions.is_request(number):
            return
        elif self._signal is None:
            self._signal = number
            again = "" if number in WARNINGS else "; again to leave at once"
            _LOGGER.warning("%s: finishing this step, saving and leaving%s", name, again)
        else:
            _LOGGER.warning("%s again: leaving at once", name, extra=EVERY_RANK)
            _leave()


def _leave() -> None:
    leave_exit_code(EXIT_REQUEUE)
    os._exit(EXIT_REQUEUE)


def _do_nothing(number: int, frame: FrameType | None) -> None:
    """Keep the signal's default action away; the thread has its number already."""
