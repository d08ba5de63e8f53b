"""Whoever waits says for what: a start that stands still without a word looks like one that hangs."""

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator

from trireme.progress import format_duration

_LOGGER = logging.getLogger(__name__)

FIRST_WORD_SECONDS = 10.0
"""Waits that are shorter need no word."""


@contextlib.contextmanager
def telling_what_it_waits_for(
    what: str,
    *,
    after_seconds: float = FIRST_WORD_SECONDS,
    say: Callable[[str], object] = _LOGGER.info,
) -> Iterator[None]:
    """While the block lasts, say what it waits for: after 10 s, and each time that the wait has become twice as long.

    Args:
        what: for example `the other ranks to join`, after "waiting for".
        say: takes the line, in another thread.
    """
    is_over = threading.Event()
    began = time.monotonic()

    def tell() -> None:
        due = after_seconds
        while not is_over.wait(began + due - time.monotonic()):
            say(f"waiting for {what}, {format_duration(time.monotonic() - began)} so far")
            due *= 2

    thread = threading.Thread(target=tell, name="waiting", daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()
