"""A file that lines are appended to while a run goes on, and that a full disk or a lost mount does not stop."""

import contextlib
import errno
import os
from collections import deque
from collections.abc import Callable
from pathlib import Path

from trainer.common.progress import format_number


def append_durably(path: Path, text: str) -> None:
    """Append lines in one write, and have the disk confirm them: for what must outlive the process and the host.

    Raises:
        OSError: they cannot be written.
    """
    with path.open("a", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


class LineFile:
    """Hands each line to the system at once, whole or not at all; lines that it does not take wait in memory.

    Every further line tries again from the oldest on, with the file opened anew: a mount that came back is another one.

    Args:
        say: is told once when the disk takes no more, and once when it does again.
        max_waiting: lines kept at most; the oldest are lost.
    """

    def __init__(self, path: Path, *, say: Callable[[str], None], max_waiting: int) -> None:
        self._path, self._say = path, say
        self._waiting: deque[bytes] = deque(maxlen=max_waiting)
        self._num_lost = 0
        self._failure: str | None = None
        self._descriptor: int | None = None
        path.parent.mkdir(parents=True, exist_ok=True)
        self._open()

    def write(self, line: str) -> None:
        """Append a line, given without its end."""
        self._num_lost += len(self._waiting) == self._waiting.maxlen
        self._waiting.append(line.encode() + b"\n")
        try:
            num_lines = self._write_waiting()
        except OSError as error:
            self._close_descriptor()
            if self._failure is None:
                self._failure = error.strerror or str(error)
                self._say(
                    f"{self._path} takes no more lines ({self._failure}); the run goes on, and they wait in memory"
                    " until it does: free some room"
                )
            return
        if self._failure is not None:
            lost = f", and the {self._num_lost} before them are lost" if self._num_lost else ""
            self._say(f"{self._path} takes lines again: {num_lines} had waited{lost}")
            self._failure, self._num_lost = None, 0

    def close(self) -> None:
        """Close the file; says how many lines never reached it."""
        self._close_descriptor()
        if self._waiting:
            lacking = format_number(len(self._waiting) + self._num_lost, "line")
            self._say(f"{self._path} lacks its last {lacking} ({self._failure})")

    def _open(self) -> int:
        if self._descriptor is None:
            self._descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        return self._descriptor

    def _write_waiting(self) -> int:
        descriptor, num_lines = self._open(), 0
        while self._waiting:
            line = self._waiting[0]
            written = os.write(descriptor, line)
            if written != len(line):
                # The rest of a line that had no room would be taken for a line of its own.
                os.ftruncate(descriptor, os.fstat(descriptor).st_size - written)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self._waiting.popleft()
            num_lines += 1
        return num_lines

    def _close_descriptor(self) -> None:
        if self._descriptor is not None:
            descriptor, self._descriptor = self._descriptor, None
            with contextlib.suppress(OSError):  # a network file system tells here what it could not write
                os.close(descriptor)
