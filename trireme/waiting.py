"""Log what a process waits for: a silent start looks like a hang."""

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator

from trireme.progress import format_duration

_LOGGER = logging.getLogger(__name__)

FIRST_WORD_SECONDS = 10.0
"""Shorter waits are not logged."""


@contextlib.contextmanager
def log_waiting_for(
    what: str,
    *,
    after_seconds: float = FIRST_WORD_SECONDS,
    say: Callable[[str], object] = _LOGGER.info,
) -> Iterator[None]:
    """Log what the block waits for: after 10 s, and each time that the wait has doubled.

    Args:
        what: for example `the other ranks to join`, after "waiting for".
        say: called with the line, in another thread.
    """
    is_over = threading.Event()
    began = time.monotonic()

    def tell() -> None:
        due = after_seconds
        while not is_over.wait(began + due - time.monotonic()):
            say(f"Waiting for {what} ({format_duration(time.monotonic() - began)} so far)")
            due *= 2

    thread = threading.Thread(target=tell, name="waiting", daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()
