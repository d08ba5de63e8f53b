"""Bound the processor time of each record, so that no page holds a worker: it is ended, and the record fails.

The kernel ends the process, in whatever library it is at. Which record it was at stands in a small file that the parent
reads then. Processor time and not time is counted, so that a machine with much else to do changes nothing.
"""

import mmap
import signal
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path

from data_tools.document import Document
from data_tools.ledger import Ledger

SIGNAL = signal.SIGPROF
"""What ends a process whose time is over."""
_PLACE = struct.Struct("<qq")
_SUFFIX = ".at"


class RecordClock:
    """Ends this process when it takes too long over a record; one for each worker process.

    Args:
        directory: where the parent looks.
        seconds: of processor time, all threads together.
    """

    def __init__(self, directory: Path, *, name: str, seconds: float) -> None:
        path = directory / f"{name}{_SUFFIX}"
        path.write_bytes(_PLACE.pack(-1, -1))
        with open(path, "r+b") as stream:
            self._place = mmap.mmap(stream.fileno(), _PLACE.size)
        self._seconds = seconds
        signal.signal(SIGNAL, signal.SIG_DFL)

    def watch(
        self, documents: Iterable[Document], *, file: int, too_slow: Iterable[int], ledger: Ledger
    ) -> Iterator[Document]:
        """Hand documents on; the time of each begins when it is handed out, and ends when the next one is asked for.

        Args:
            file: index of the file that they are from.
            too_slow: records that a process was ended for: they are counted as failed.
        """
        try:
            for document in documents:
                if document.record in too_slow:
                    detail = f"took more than {self._seconds:g} s of processor time"
                    ledger.fail("time_limit", detail=detail, **document.origin)
                    continue
                _PLACE.pack_into(self._place, 0, file, document.record)
                signal.setitimer(signal.ITIMER_PROF, self._seconds)
                yield document
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
            _PLACE.pack_into(self._place, 0, -1, -1)


def read_slow_record(directory: Path, *, name: str) -> tuple[int, int] | None:
    """File and record that an ended process was at; None where it was at none."""
    try:
        file, record = _PLACE.unpack((directory / f"{name}{_SUFFIX}").read_bytes())
    except (OSError, struct.error):
        return None
    return None if record < 0 else (file, record)
