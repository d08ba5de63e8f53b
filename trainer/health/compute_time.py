"""How long a rank computes itself. The time of a whole step is the same on all ranks: the fast ones wait for the slow.

On a CPU a thread looks at the main thread ten times a second and adds up the time in which it does not wait for
other ranks: forward and backward passes, the update, reading data. Nothing is wrapped. On a GPU the main thread is
ahead of the device, so events around each chunk's forward pass are timed instead.
"""

import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import nn

from trainer.health.standing import is_waiting

SAMPLE_SECONDS = 0.1


class ComputeTime(Protocol):
    """Adds up this rank's own time."""

    def take(self) -> float:
        """Seconds since the last call; the step's work is done."""
        ...

    def close(self) -> None:
        """Stop measuring."""
        ...


class SampledComputeTime:
    """Time in which the main thread does not wait for other ranks.

    Args:
        is_counting: whether the run is in a part that is to be measured.
        clock: seconds; one that stands still with the process, or what it is stopped for is taken for its own time.
    """

    def __init__(self, is_counting: Callable[[], bool], *, clock: Callable[[], float] = time.perf_counter) -> None:
        self._is_counting, self._clock = is_counting, clock
        self._seconds = 0.0
        self._lock = threading.Lock()
        self._is_ended = False
        self._main = threading.main_thread().ident or 0
        self._thread = threading.Thread(target=self._sample, name="compute-time", daemon=True)
        self._thread.start()

    def take(self) -> float:
        """Seconds since the last call."""
        with self._lock:
            seconds, self._seconds = self._seconds, 0.0
        return seconds

    def close(self) -> None:
        """End the thread."""
        self._is_ended = True
        self._thread.join()

    def _sample(self) -> None:
        last = self._clock()
        while not self._is_ended:
            time.sleep(SAMPLE_SECONDS)  # a third of the time of a lock with a time limit
            # A process that has no core to run on is late here, and that time is its own.
            now = self._clock()
            frame = sys._current_frames().get(self._main)
            if frame is not None and self._is_counting() and not is_waiting(frame):
                with self._lock:
                    self._seconds += now - last
            last = now


class ForwardEventTime:
    """Time that the device spends on forward passes in training, collectives inside of them included."""

    def __init__(self, chunks: Sequence[nn.Module]) -> None:
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []
        self._handles = []
        for chunk in chunks:
            self._handles.append(chunk.register_forward_pre_hook(self._begin))
            self._handles.append(chunk.register_forward_hook(self._end))

    def take(self) -> float:
        """Seconds since the last call; the loss is on the host, so the events have happened."""
        events, self._events = self._events, []
        return sum(first.elapsed_time(second) for first, second in events) / 1000

    def close(self) -> None:
        """Take the hooks away."""
        for handle in self._handles:
            handle.remove()

    def _begin(self, module: nn.Module, inputs: Any) -> None:
        if module.training:
            first, second = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            first.record()
            self._events.append((first, second))

    def _end(self, module: nn.Module, inputs: Any, output: Any) -> None:
        if module.training:
            self._events[-1][1].record()
