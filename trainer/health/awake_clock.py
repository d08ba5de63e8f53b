"""A clock that stands still while this process does: nobody hangs who was stopped and continued with all the others."""

import threading
import time
from collections.abc import Callable

TICK_SECONDS = 1.0
STILL_SECONDS = 3.0
"""A tick that comes so late is taken for a process that stood still: stopped (Ctrl-Z, `docker pause`, `scontrol
suspend`, a laptop's lid), or without a core to run on. Less is what a busy host does."""


class AwakeClock:
    """Seconds of the time in which this process could run; `clock()` reads it, on any thread.

    A thread does nothing but look at the time, so that a gap tells that the whole process stood still, and not that
    whoever asks has waited for something.
    """

    def __init__(self, *, monotonic: Callable[[], float] = time.monotonic, tick_seconds: float = TICK_SECONDS) -> None:
        self._monotonic, self._tick_seconds = monotonic, tick_seconds
        self._lock = threading.Lock()
        self._seen_at = monotonic()
        self._still_seconds = 0.0
        self._is_ended = threading.Event()
        self._thread = threading.Thread(target=self._tick, name="clock", daemon=True)

    def start(self) -> None:
        """Begin to look; before that the clock is an ordinary one."""
        self._thread.start()

    def close(self) -> None:
        """End the thread."""
        self._is_ended.set()
        if self._thread.is_alive():
            self._thread.join()

    def __call__(self) -> float:
        """The time."""
        with self._lock:
            now = self._monotonic()
            gap, self._seen_at = now - self._seen_at, now
            if gap > STILL_SECONDS and self._thread.is_alive():
                self._still_seconds += gap - self._tick_seconds
            return now - self._still_seconds

    def _tick(self) -> None:
        while not self._is_ended.wait(self._tick_seconds):
            self()
