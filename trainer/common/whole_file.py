"""Files that are there whole or not at all, whenever the process or the host dies."""

import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path


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
