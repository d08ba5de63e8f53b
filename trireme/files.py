"""Write files durably: whole or not at all, or line by line even when the disk fills up."""

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
    """Yield the path of an empty file to write to, and rename it to `path` when the block ends.

    Where the block raises, the file is removed, and `path` keeps its former content. Content and name are synced to
    the disk, so that they survive a crash of the host too.

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
    """Sync a directory to the disk: renames and new files survive a crash of the host only then."""
    _sync(path, flags=os.O_RDONLY)


def _sync(path: Path, *, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def append_durably(path: Path, text: str) -> None:
    """Append lines in one write and sync them to the disk: for records that must survive the process and the host.

    Raises:
        OSError: they cannot be written.
    """
    with path.open("a", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


class LineFile:
    """Write each line immediately, whole or not at all; keep lines in memory while the disk does not take them.

    Every further line retries from the oldest on, with the file reopened: a remounted file system needs a new handle.

    Args:
        say: called once when writing begins to fail, and once when it works again.
        max_waiting: lines kept in memory at most; the oldest are dropped.
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
        """Append a line, given without its newline."""
        self._num_lost += len(self._waiting) == self._waiting.maxlen
        self._waiting.append(line.encode() + b"\n")
        try:
            num_lines = self._write_waiting()
        except OSError as error:
            self._close_descriptor()
            if self._failure is None:
                self._failure = error.strerror or str(error)
                self._say(
                    f"{self._path}: cannot be written ({self._failure}). The run continues and keeps lines in memory"
                    " until it can; free disk space."
                )
            return
        if self._failure is not None:
            kept = format_number(num_lines, "line")
            lost = f"; {format_number(self._num_lost, 'earlier line')} dropped" if self._num_lost else ""
            self._say(f"{self._path}: can be written again. Wrote {kept} from memory{lost}.")
            self._failure, self._num_lost = None, 0

    def close(self) -> None:
        """Close the file; report how many lines were never written to it."""
        self._close_descriptor()
        if self._waiting:
            missing = format_number(len(self._waiting) + self._num_lost, "line")
            self._say(f"{self._path}: the last {missing} could not be written ({self._failure})")

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
                # The next line would be appended to a partial one.
                os.ftruncate(descriptor, os.fstat(descriptor).st_size - written)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self._waiting.popleft()
            num_lines += 1
        return num_lines

    def _close_descriptor(self) -> None:
        if self._descriptor is not None:
            descriptor, self._descriptor = self._descriptor, None
            with contextlib.suppress(OSError):  # a network file system reports failed writes here
                os.close(descriptor)


def nearest_existing_parent(path: Path) -> Path:
    """Return the path itself if it exists, or its nearest existing parent; absolute.

    The result is a file where a file is in the way. A path that may not be read, or that the file system does not
    accept as a name, counts as missing: the result is the directory that hides or refuses it.
    """
    absolute = path.absolute()
    # Not Path.exists, which raises where a directory may not be entered.
    return next(place for place in (absolute, *absolute.parents) if os.path.exists(place))
