"""Measure time without the time in which this process was suspended, which is no hang."""

import threading
import time
from collections.abc import Callable

TICK_SECONDS = 1.0
STILL_SECONDS = 3.0
"""A tick this late means that the process was suspended (Ctrl-Z, `docker pause`, `scontrol suspend`, a laptop's lid) or
had no core to run on. Shorter delays occur on a busy host."""


class AwakeClock:
    """Count the seconds in which this process could run; `clock()` reads them, on any thread.

    A thread does nothing but read the time, so that a gap means that the whole process was suspended, and not that the
    caller has waited for something.
    """

    def __init__(self, *, monotonic: Callable[[], float] = time.monotonic, tick_seconds: float = TICK_SECONDS) -> None:
        self._monotonic, self._tick_seconds = monotonic, tick_seconds
        self._lock = threading.Lock()
        self._seen_at = monotonic()
        self._still_seconds = 0.0
        self._is_ended = threading.Event()
        self._thread = threading.Thread(target=self._tick, name="clock", daemon=True)

    def start(self) -> None:
        """Start the thread; before that, this is an ordinary clock."""
        self._thread.start()

    def close(self) -> None:
        """Stop the thread."""
        self._is_ended.set()
        if self._thread.is_alive():
            self._thread.join()

    def __call__(self) -> float:
        """Return the time in seconds."""
        with self._lock:
            now = self._monotonic()
            gap, self._seen_at = now - self._seen_at, now
            if gap > STILL_SECONDS and self._thread.is_alive():
                self._still_seconds += gap - self._tick_seconds
            return now - self._still_seconds

    def _tick(self) -> None:
        while not self._is_ended.wait(self._tick_seconds):
            self()
