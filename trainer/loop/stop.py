"""Requests to stop from outside: a signal on any process stops all of them after the same step."""

import logging
import os
import signal
import time
from types import FrameType, TracebackType

import torch
from torch import distributed

from trainer.common.errors import EXIT_REQUEUE
from trainer.common.logging import EVERY_RANK

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)

REPETITION_SECONDS = 1.0
"""Ctrl-C reaches every process of the terminal, and torchrun passes it on to them once more."""

_LOGGER = logging.getLogger(__name__)


class StopRequest:
    """Notes the first signal; the second, other than a repetition within a second, leaves at once.

    `with StopRequest(...)` puts the former handlers back at the end.
    """

    def __init__(self) -> None:
        self._signal: int | None = None
        self._asked_at = 0.0
        self._former: dict[int, object] = {}

    def __enter__(self) -> "StopRequest":
        for number in SIGNALS:
            self._former[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def is_agreed(self, *, device: torch.device) -> bool:
        """Whether any process was asked to stop; all ranks call this and get the same answer."""
        flag = torch.tensor([self._signal or 0], device=device)
        if distributed.is_initialized():
            distributed.all_reduce(flag, op=distributed.ReduceOp.MAX)
        return bool(flag.item())

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._signal is None:
            self._signal, self._asked_at = number, time.monotonic()
            name = signal.Signals(number).name
            _LOGGER.warning("%s: finishing this step, saving and leaving; again to leave at once", name)
        elif number != signal.SIGUSR1 and time.monotonic() - self._asked_at > REPETITION_SECONDS:
            # SIGUSR1 is Slurm's warning, which may come to a process by two ways.
            _LOGGER.warning("%s again: leaving at once", signal.Signals(number).name, extra=EVERY_RANK)
            os._exit(EXIT_REQUEUE)
