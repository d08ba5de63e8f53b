"""events.jsonl: the events of a run besides its steps, one JSON object per line; the file is only appended to.

In metrics.jsonl, on the other hand, the records of repeated steps replace the earlier ones.
"""

import datetime
import logging
import threading
from pathlib import Path
from typing import Any

from trireme.strict_json import to_json

FILE_NAME = "events.jsonl"
_LOGGER = logging.getLogger(__name__)


def describe_event(kind: str, *, step: int, **fields: Any) -> str:
    """Format an event as one line, with the current time as its last field."""
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
    return to_json({"kind": kind, "step": step, **fields, "time": now}) + "\n"


class EventLog:
    """Append events; any thread may call it. Without a path (on every rank but the main one) it does nothing."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._lock = threading.Lock()

    def record(self, kind: str, *, step: int, **fields: Any) -> None:
        """Append one event; a failed write is logged, and the run continues.

        Args:
            kind: of the event, such as `start` or `checkpoint_failed`.
            step: optimizer steps taken when it happened.
            fields: plain values that JSON can hold.
        """
        if self._path is None:
            return
        line = describe_event(kind, step=step, **fields)
        try:
            # Opened for each event: there are few, and a file system that recovers is used again.
            with self._lock, self._path.open("a", encoding="utf-8") as file:
                file.write(line)
        except OSError as error:
            _LOGGER.warning("Failed to write this event to %s (%s): %s", self._path, error.strerror, line.rstrip())
