"""Journals record the finished work of a stage on disk: a killed run loses only the work in progress.

Each run of a stage appends to its own journal and reads those of all others. An entry that a kill cut off is ignored,
since its checksum does not match.
"""

import pickle
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

_HEAD = struct.Struct("<QI")
"""Length and CRC-32 of an entry."""
SUFFIX = ".journal"


class JournalWriter:
    """Append entries to a new journal.

    Args:
        directory: of the stage.
        name: one that no other run has or had.
    """

    def __init__(self, directory: Path, *, name: str) -> None:
        # Stays open as long as the stage runs.
        self._stream = open(directory / f"{name}{SUFFIX}", "xb")  # noqa: SIM115

    def append(self, entry: Any) -> None:
        """Write an entry; when this returns, it survives the death of this process."""
        data = pickle.dumps(entry, protocol=5)
        self._stream.write(_HEAD.pack(len(data), zlib.crc32(data)) + data)
        self._stream.flush()

    def __enter__(self) -> "JournalWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.close()


def read_journals(directory: Path) -> Iterator[Any]:
    """Yield the complete entries of all journals of a stage, each journal's in order."""
    for path in sorted(directory.glob(f"*{SUFFIX}")):
        with open(path, "rb") as stream:
            while len(head := stream.read(_HEAD.size)) == _HEAD.size:
                length, checksum = _HEAD.unpack(head)
                data = stream.read(length)
                if len(data) < length or zlib.crc32(data) != checksum:
                    break
                yield pickle.loads(data)
