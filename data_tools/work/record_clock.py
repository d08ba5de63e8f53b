"""Limit the CPU time of each record: a worker that exceeds the limit is killed, and the record counts as failed.

The kernel ends the process, whatever library it is in; the parent then reads the record's number from a small file. CPU
time is counted, not wall time, so that the load of the machine does not change results.
"""

import mmap
import signal
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path

from data_tools.document import Document
from data_tools.ledger import Ledger

SIGNAL = signal.SIGPROF
"""The signal that ends a process at the time limit."""
_RECORD = struct.Struct("<qq")
_SUFFIX = ".at"


class RecordClock:
    """End this process when a record exceeds the time limit; one per worker process.

    Args:
        directory: in which the parent looks for the record's number.
        seconds: of CPU time, all threads together.
    """

    def __init__(self, directory: Path, *, name: str, seconds: float) -> None:
        path = directory / f"{name}{_SUFFIX}"
        path.write_bytes(_RECORD.pack(-1, -1))
        with open(path, "r+b") as stream:
            self._current = mmap.mmap(stream.fileno(), _RECORD.size)
        self._seconds = seconds
        signal.signal(SIGNAL, signal.SIG_DFL)

    def watch(
        self, documents: Iterable[Document], *, file: int, too_slow: Iterable[int], ledger: Ledger
    ) -> Iterator[Document]:
        """Yield documents; the time of each runs from here until the next one is requested.

        Args:
            file: index of their file.
            too_slow: records that exceeded the limit before: they count as failed.
        """
        try:
            for document in documents:
                if document.record in too_slow:
                    detail = f"took more than {self._seconds:g} s of processor time"
                    ledger.fail("time_limit", detail=detail, **document.origin)
                    continue
                _RECORD.pack_into(self._current, 0, file, document.record)
                signal.setitimer(signal.ITIMER_PROF, self._seconds)
                yield document
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
            _RECORD.pack_into(self._current, 0, -1, -1)


def read_slow_record(directory: Path, *, name: str) -> tuple[int, int] | None:
    """Return the file and record that a killed process was processing; None where there was none."""
    try:
        file, record = _RECORD.unpack((directory / f"{name}{_SUFFIX}").read_bytes())
    except (OSError, struct.error):
        return None
    return None if record < 0 else (file, record)
