"""Read a data set: fixed-length windows over the concatenated tokens of its shards."""

import logging
import os
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import BinaryIO

import numpy as np

from trainer.data.file_content import FileContent, differs_from_manifest, look_at
from trainer.data.identity import identify_dataset
from trainer.data.mixture import DatasetIdentity
from trireme.errors import EXIT_BAD_INPUT, ConfigError, RunStopped, Violation, raise_if_any
from trireme.progress import format_number
from trireme.shards.shard import ShardReader, shard_file

_LOGGER = logging.getLogger(__name__)

MAX_OPEN_FILES = 256
"""Descriptors kept open, of the 1,024 that a process usually has; the least recently used file is closed first."""
OPENING_THREADS = 16
"""On a network file system opening a shard is a handful of round trips, and a data set may have thousands."""


class TokenDataset:
    """Read windows of seq_length + 1 tokens; the last label of a window is the first input of the next one.

    Window w consists of tokens w * seq_length to (w + 1) * seq_length (both included) of the concatenated shards, and
    may cross shards. Without overlap the last of them is left out. Opening reads 46 bytes of each shard.

    Tokens are read with pread and not through a memory map: on windows of 513 to 8,193 tokens it took 0.2 to 0.4 of a
    map's time on a cold file and 0.5 to 0.7 on a cached one, and a file that is truncated during the run or a failing
    disk raises an error here, while a map kills the process with SIGBUS.

    Every read checks the file's size, inode and modification time first (4 us, compared to 17 us for a cached window of
    2,049 tokens), because other tokens under the same name would be trained on silently. If time or inode differ, the
    content decides (`trainer.data.file_content`): `touch` is no change.

    Args:
        prefixes: shard prefixes, in order.
        seq_length: input tokens per window.
        max_open_files: files kept open between reads.
        overlap: tokens that a window shares with the next one: 1, or 0 for rows that are windows of their own.
    Raises:
        ConfigError: shards cannot be used (all of them), or there are fewer tokens than one window has.
    """

    def __init__(
        self,
        prefixes: Sequence[str | Path],
        *,
        seq_length: int,
        max_open_files: int = MAX_OPEN_FILES,
        overlap: int = 1,
    ) -> None:
        self.shards = open_shards(prefixes)
        self.overlap = overlap
        self.max_open_files = max_open_files
        self.seq_length = seq_length
        self._starts = np.cumsum([0] + [shard.num_tokens for shard in self.shards], dtype=np.int64)
        self._files: OrderedDict[int, BinaryIO] = OrderedDict()
        self._contents: dict[int, FileContent] = {}
        self._is_unlinked: set[int] = set()
        self._lock = Lock()
        if overlap:
            raise_if_any(check_window_count(self.num_tokens, seq_length=seq_length, path=", ".join(map(str, prefixes))))

    @property
    def num_tokens(self) -> int:
        """Number of tokens in all shards."""
        return int(self._starts[-1])

    @property
    def num_windows(self) -> int:
        """Number of whole windows; the tokens after the last one are never read."""
        return (self.num_tokens - self.overlap) // self.seq_length

    @cached_property
    def identity(self) -> DatasetIdentity:
        """Identity of the data set, independent of the location and names of its shards."""
        return identify_dataset(self.shards, seq_length=self.seq_length)

    def read_windows(self, windows: np.ndarray, *, out: np.ndarray, rows: Sequence[int] | np.ndarray) -> None:
        """Read windows into rows of an array.

        Args:
            windows: [n] window numbers.
            out: [any, seq_length + overlap] int64.
            rows: [n] rows of out.
        Raises:
            RunStopped: a file cannot be read, or has changed since it was first read.
        """
        for window, row in zip(windows.tolist(), rows, strict=True):
            self._read_tokens(window * self.seq_length, out[row])

    def close(self) -> None:
        """Close the files; reading opens them again."""
        with self._lock:
            while self._files:
                self._files.popitem()[1].close()

    def _read_tokens(self, start: int, out: np.ndarray) -> None:
        """Fill out with the tokens from start on, from one or more shards."""
        shard = int(np.searchsorted(self._starts, start, side="right")) - 1
        filled = 0
        while filled < len(out):
            offset = start + filled - int(self._starts[shard])
            count = min(len(out) - filled, self.shards[shard].num_tokens - offset)
            out[filled : filled + count] = self._read_from_shard(shard, offset, count)
            filled += count
            shard += 1

    def _read_from_shard(self, shard: int, offset: int, count: int) -> np.ndarray:
        dtype = self.shards[shard].dtype
        num_bytes = count * dtype.itemsize
        try:
            # The lock prevents another thread from closing this descriptor, whose number may then be another file's.
            with self._lock:
                descriptor = self._file(shard).fileno()
                self._check_unchanged(shard, descriptor)
                raw = os.pread(descriptor, num_bytes, offset * dtype.itemsize)
                if len(raw) != num_bytes:  # truncated between the check of its size and the read
                    self._check_unchanged(shard, descriptor)
        except OSError as error:
            raise self._lost(shard, "", f"can no longer be read: {error.strerror}") from error
        if len(raw) != num_bytes:
            raise self._lost(shard, "", f"has been truncated to {offset * dtype.itemsize + len(raw)} bytes")
        return np.frombuffer(raw, dtype=dtype)

    def _check_unchanged(self, shard: int, descriptor: int) -> None:
        now = os.fstat(descriptor)
        expected_bytes = self.shards[shard].header.bin_bytes
        if now.st_size != expected_bytes:
            raise self._lost(
                shard, format_number(now.st_size, "byte"), f"had {expected_bytes} bytes when the run started"
            )
        first = self._contents.get(shard)
        if first is None:
            self._contents[shard] = look_at(descriptor, now)
        elif not first.has_status(now):
            self._contents[shard] = self._compare_content(shard, descriptor, first)
        if now.st_nlink == 0 and shard not in self._is_unlinked:
            self._is_unlinked.add(shard)
            _LOGGER.warning(
                "%s was deleted or replaced. This process continues with the file that it has open; the next start will"
                " not find that file.",
                shard_file(self.shards[shard].prefix, ".bin"),
            )

    def _compare_content(self, shard: int, descriptor: int, first: FileContent) -> FileContent:
        """Distinguish a file that was only touched, or restored unchanged, from one with other tokens."""
        prefix = self.shards[shard].prefix
        now = look_at(descriptor, os.fstat(descriptor))
        is_same_file = first.is_same_file(now.status)
        if now.sample != first.sample or differs_from_manifest(descriptor, prefix=prefix):
            value = "" if is_same_file else f"inode {now.status.st_ino}"
            message = "has been modified during the run" if is_same_file else "has been replaced by another file"
            raise self._lost(shard, value, message)
        what = "has another modification time" if is_same_file else "is another file"
        _LOGGER.info("%s %s, but the same content: training continues.", shard_file(prefix, ".bin"), what)
        return now

    def _lost(self, shard: int, value: str, message: str) -> RunStopped:
        path = str(shard_file(self.shards[shard].prefix, ".bin"))
        fix = "Restore the original file and rerun the same command to resume from the latest checkpoint."
        return RunStopped(str(Violation(path=path, value=value, message=message, fix=fix)), exit_code=EXIT_BAD_INPUT)

    def _file(self, shard: int) -> BinaryIO:
        file = self._files.pop(shard, None)
        if file is None:
            if len(self._files) >= self.max_open_files:
                self._files.popitem(last=False)[1].close()
            file = open(shard_file(self.shards[shard].prefix, ".bin"), "rb", buffering=0)  # noqa: SIM115 - see close
        self._files[shard] = file
        return file


def open_shards(prefixes: Sequence[str | Path]) -> list[ShardReader]:
    """Open shards in parallel.

    Raises:
        ConfigError: shards cannot be used (all their errors).
    """

    def open_one(prefix: str | Path) -> ShardReader | ConfigError:
        try:
            return ShardReader(prefix)
        except ConfigError as error:
            return error

    with ThreadPoolExecutor(max_workers=min(OPENING_THREADS, len(prefixes)) or 1) as pool:
        opened = list(pool.map(open_one, prefixes))
    raise_if_any(violation for one in opened if isinstance(one, ConfigError) for violation in one.violations)
    return [one for one in opened if isinstance(one, ShardReader)]


def check_window_count(num_tokens: int, *, seq_length: int, path: str) -> list[Violation]:
    """Report a data set with too few tokens for one window."""
    if num_tokens > seq_length:
        return []
    message = f"is shorter than one window of model.seq_length={seq_length} plus its last label"
    fix = f"Add shards, or use a seq_length of at most {num_tokens - 1}."
    return [Violation(path=path, value=format_number(num_tokens, "token"), message=message, fix=fix)]
