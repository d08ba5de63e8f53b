"""Prefetch items in a background thread."""

import queue
from collections.abc import Callable
from dataclasses import dataclass
from threading import Event, Thread
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class _Failure:
    error: BaseException


class Prefetcher(Generic[T]):
    """Call produce repeatedly in a thread, at most depth results ahead.

    Args:
        produce: returns the next item; called from one thread only.
        depth: items kept ready, at least 1.
    """

    def __init__(self, produce: Callable[[], T], *, depth: int) -> None:
        self._produce = produce
        self._ready: queue.Queue[T | _Failure] = queue.Queue(maxsize=depth)
        self._failure: _Failure | None = None
        self._is_closing = Event()
        self._thread = Thread(target=self._run, name="data-prefetch", daemon=True)
        self._thread.start()

    def get(self) -> T:
        """Return the next item; wait until it is ready.

        Raises:
            BaseException: what produce raised, after the items before it have been taken; again on every later call.
            RuntimeError: the prefetcher is closed.
        """
        if self._is_closing.is_set():
            raise RuntimeError("the prefetcher is closed")
        item = self._failure or self._ready.get()
        if isinstance(item, _Failure):
            self._failure = item
            raise item.error
        return item

    def close(self) -> None:
        """Stop the thread; wait for the item in progress."""
        self._is_closing.set()
        # The thread may wait for space for one last item: an emptied queue has it.
        while not self._ready.empty():
            self._ready.get_nowait()
        self._thread.join()

    def _run(self) -> None:
        while not self._is_closing.is_set():
            try:
                item: T | _Failure = self._produce()
            except BaseException as error:
                item = _Failure(error)
            self._ready.put(item)
            if isinstance(item, _Failure):
                return
