"""Files that survive: written whole or not at all, or a line at a time whatever the disk does."""

import contextlib
import errno
import os
import os.path
from collections import deque
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

from trireme.progress import format_number


@contextmanager
def written_whole(path: Path, *, mode: int = 0o666) -> Generator[Path]:
    """Give the path of an empty file to write to, and rename it to `path` when the block ends.

    Where the block raises, the file is removed, and what stood at `path` stays. The disk confirms content and name,
    so that they outlive the host too.

    Args:
        mode: permissions of the file, less the process's umask.
    Raises:
        OSError: it cannot be written.
    """
    partial = path.with_name(path.name + ".partial")
    partial.unlink(missing_ok=True)
    partial.touch(mode=mode)
    try:
        yield partial
        _sync(partial, flags=os.O_RDWR)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    sync_directory(path.parent)


def write_whole(path: Path, text: str) -> None:
    """Write a text file (UTF-8), whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    with written_whole(path) as partial:
        partial.write_text(text, encoding="utf-8")


def sync_directory(path: Path) -> None:
    """Have the disk confirm the names in a directory: renames and new files outlive the host only then."""
    _sync(path, flags=os.O_RDONLY)


def _sync(path: Path, *, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


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


def nearest_existing_parent(path: Path) -> Path:
    """The path itself, or the first above it that exists; absolute.

    It is a file where one stands in the way. What may not be looked at, and what is no name to the file system, counts
    as missing: the directory that hides or refuses it is the answer.
    """
    absolute = path.absolute()
    # Not Path.exists, which raises where a directory may not be entered.
    return next(place for place in (absolute, *absolute.parents) if os.path.exists(place))
