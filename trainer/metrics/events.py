"""events.jsonl: what happened to a run besides steps, one JSON object a line; nothing is ever taken out of it.

metrics.jsonl is one curve: records of steps that are taken again make room. This is the diary beside it.
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
    """One line, with the present time as its last field."""
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
    return to_json({"kind": kind, "step": step, **fields, "time": now}) + "\n"


class EventLog:
    """Appends events; any thread may call it. With no path (every rank but the main one) it does nothing."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._lock = threading.Lock()

    def record(self, kind: str, *, step: int, **fields: Any) -> None:
        """Append one event; a disk that does not take it is named in the log, and the run goes on.

        Args:
            kind: what happened, such as `start` or `checkpoint_failed`.
            step: optimizer steps done when it happened.
            fields: plain values that JSON can hold.
        """
        if self._path is None:
            return
        line = describe_event(kind, step=step, **fields)
        try:
            # Opened for each event: there are few, and a file system that comes back is used again.
            with self._lock, self._path.open("a", encoding="utf-8") as file:
                file.write(line)
        except OSError as error:
            _LOGGER.warning("%s takes no event (%s): %s", self._path, error.strerror, line.rstrip())
