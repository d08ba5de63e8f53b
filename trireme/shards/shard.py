"""Read and write token shards in Megatron's format: PREFIX.bin holds tokens, PREFIX.idx the place of each document."""

import hashlib
import os
import struct
from array import array
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from trireme.errors import ConfigError, Violation, raise_if_any
from trireme.files import sync_directory
from trireme.progress import format_number

MAGIC = b"MMIDIDX\x00\x00"
INDEX_VERSION = 1
_LEAVE_OUT = "Remove this prefix, or rebuild the shard from more text."
HEADER = struct.Struct("<9sQBQQ")
"""Magic, version, dtype code, number of sequences, number of document indices (documents + 1)."""

DTYPE_OF_CODE = {1: "u1", 2: "i1", 3: "<i2", 4: "<i4", 5: "<i8", 8: "<u2"}
CODE_OF_DTYPE = {np.dtype(name): code for code, name in DTYPE_OF_CODE.items()}

REBUILD = "Copy it again from its source, or rebuild the shard with `trireme prepare`."


def shard_file(prefix: str | Path, suffix: str) -> Path:
    """Append a suffix to a prefix; `Path.with_suffix` would cut prefixes such as `wiki.en`."""
    return Path(f"{prefix}{suffix}")


@dataclass(frozen=True, kw_only=True)
class ShardHeader:
    """Hold a shard's header and the totals from its last index entry, read in O(1)."""

    dtype: np.dtype[Any]
    num_sequences: int
    num_documents: int
    num_tokens: int
    has_modes: bool
    """Megatron's multimodal indices end with one byte per sequence; it does not change the place of tokens."""

    @property
    def bin_bytes(self) -> int:
        """Return the size that PREFIX.bin must have."""
        return self.num_tokens * self.dtype.itemsize


def read_header(prefix: str | Path) -> ShardHeader:
    """Read and check a shard's header, file sizes and last index entry; reads no token.

    Raises:
        ConfigError: a file is missing, unreadable, empty, truncated, too long, or of another format or version.
    """
    raise_if_any(_missing_files(prefix))
    idx_path, bin_path = shard_file(prefix, ".idx"), shard_file(prefix, ".bin")
    try:
        with open(idx_path, "rb") as stream:
            header = _parse_index(stream.fileno(), idx_path)
    except OSError as error:
        raise _unreadable(idx_path, error) from error
    raise_if_any(_bin_problems(bin_path, header))
    return header


def _missing_files(prefix: str | Path) -> list[Violation]:
    typed = str(prefix)
    stem = typed[:-4] if typed.endswith((".bin", ".idx")) else typed
    if stem != typed and shard_file(stem, ".idx").exists():
        rule = "must be a shard prefix, the path without .bin and .idx"
        return [Violation(path=typed, value="", message=rule, fix=f"Use {stem}")]
    fix = "Check the prefix (the path without .bin and .idx), or make the shard with `trireme prepare`."
    paths = [shard_file(prefix, suffix) for suffix in (".idx", ".bin")]
    return [Violation(path=str(p), value="", message="no such file", fix=fix) for p in paths if not p.is_file()]


def _unreadable(path: Path, error: OSError) -> ConfigError:
    rule = f"cannot be read: {error.strerror}"
    return ConfigError([Violation(path=str(path), value="", message=rule, fix="Check its permissions and the disk.")])


def _parse_index(descriptor: int, path: Path) -> ShardHeader:
    found_bytes = os.fstat(descriptor).st_size

    def broken(value: Any, rule: str, fix: str = REBUILD) -> ConfigError:
        return ConfigError([Violation(path=str(path), value=value, message=rule, fix=fix)])

    if found_bytes == 0:
        raise broken("0 bytes", f"must not be empty: an index has at least {HEADER.size} bytes")
    raw = os.pread(descriptor, HEADER.size, 0)
    if not raw.startswith(MAGIC[: len(raw)]):
        raise broken(
            raw[: len(MAGIC)], f"must be a token index, which starts with {MAGIC!r}", "Use the prefix of a token shard."
        )
    if len(raw) < HEADER.size:
        raise broken(format_number(found_bytes, "byte"), f"truncated: the header alone has {HEADER.size} bytes")
    _, version, code, num_sequences, num_indices = HEADER.unpack(raw)
    if version != INDEX_VERSION:
        raise broken(f"version {version}", f"must have version {INDEX_VERSION}")
    if code not in DTYPE_OF_CODE:
        raise broken(f"dtype code {code}", f"dtype code must be one of {sorted(DTYPE_OF_CODE)}")
    dtype = np.dtype(DTYPE_OF_CODE[code])
    expected = HEADER.size + 12 * num_sequences + 8 * num_indices
    if found_bytes not in (expected, expected + num_sequences) or num_indices == 0:
        kind = "truncated" if found_bytes < expected else "longer than its header says"
        counts = (
            f"{format_number(num_sequences, 'sequence')} and"
            f" {format_number(num_indices, 'document index', plural='document indices')}"
        )
        raise broken(format_number(found_bytes, "byte"), f"{kind}: {counts} take {expected} bytes")
    if num_sequences == 0:
        raise broken("0 documents", "must contain documents", _LEAVE_OUT)
    return ShardHeader(
        dtype=dtype,
        num_sequences=num_sequences,
        num_documents=num_indices - 1,
        num_tokens=_count_tokens(descriptor, path, num_sequences, dtype.itemsize),
        has_modes=found_bytes != expected,
    )


def _count_tokens(descriptor: int, path: Path, num_sequences: int, itemsize: int) -> int:
    (length,) = struct.unpack("<i", os.pread(descriptor, 4, HEADER.size + 4 * (num_sequences - 1)))
    (pointer,) = struct.unpack("<q", os.pread(descriptor, 8, HEADER.size + 12 * num_sequences - 8))
    if length < 0 or pointer < 0 or pointer % itemsize:
        value, rule = f"length {length} at byte {pointer}", "corrupted: its last entry is not a place in a .bin"
        raise ConfigError([Violation(path=str(path), value=value, message=rule, fix=REBUILD)])
    if pointer + length == 0:
        raise ConfigError([Violation(path=str(path), value="0 tokens", message="must contain tokens", fix=_LEAVE_OUT)])
    return pointer // itemsize + length


def _bin_problems(path: Path, header: ShardHeader) -> list[Violation]:
    try:
        found_bytes = path.stat().st_size
    except OSError as error:
        return list(_unreadable(path, error).violations)
    if found_bytes == header.bin_bytes:
        return []
    kind = "empty" if found_bytes == 0 else "truncated" if found_bytes < header.bin_bytes else "too long"
    rule = f"{kind}: its index expects {header.bin_bytes} bytes ({header.num_tokens} tokens of {header.dtype.itemsize})"
    return [Violation(path=str(path), value=format_number(found_bytes, "byte"), message=rule, fix=REBUILD)]


WRITE_CHUNK_BYTES = 4 << 20


def token_dtype(vocab_size: int) -> np.dtype[Any]:
    """Return the integer type that Megatron chooses for a vocabulary (`DType.optimal_dtype`)."""
    return np.dtype("<u2") if vocab_size < 65500 else np.dtype("<i4")


class ShardReader:
    """Read one shard, memory-mapped on first use; opening it reads 46 bytes whatever its size.

    A mapping holds a file descriptor, so a data set of many shards drops unused mappings with `release`.

    Args:
        prefix: path without .bin and .idx.
    Raises:
        ConfigError: the shard cannot be used; names the file, the error and the fix.
    """

    def __init__(self, prefix: str | Path) -> None:
        self.prefix = Path(prefix)
        self.header = read_header(prefix)
        self.dtype = self.header.dtype
        self.num_documents = self.header.num_documents
        self.num_tokens = self.header.num_tokens

    @cached_property
    def tokens(self) -> np.memmap[Any, np.dtype[Any]]:
        """Return all tokens of the .bin: [num_tokens]."""
        return np.memmap(shard_file(self.prefix, ".bin"), dtype=self.dtype, mode="r")

    @cached_property
    def _index(self) -> np.memmap[Any, np.dtype[np.uint8]]:
        return np.memmap(shard_file(self.prefix, ".idx"), dtype=np.uint8, mode="r")

    def _index_part(self, start: int, count: int, dtype: str) -> np.ndarray:
        return self._index[start : start + count * np.dtype(dtype).itemsize].view(dtype)

    @property
    def sequence_lengths(self) -> np.ndarray:
        """Return the number of tokens of each sequence: [num_sequences] int32, mapped."""
        return self._index_part(HEADER.size, self.header.num_sequences, "<i4")

    @property
    def sequence_pointers(self) -> np.ndarray:
        """Return the first byte of each sequence in the .bin: [num_sequences] int64, mapped."""
        return self._index_part(HEADER.size + 4 * self.header.num_sequences, self.header.num_sequences, "<i8")

    @property
    def document_indices(self) -> np.ndarray:
        """Return the first sequence of each document, then their number: [num_documents + 1] int64, mapped."""
        return self._index_part(HEADER.size + 12 * self.header.num_sequences, self.num_documents + 1, "<i8")

    @cached_property
    def document_offsets(self) -> np.ndarray:
        """Return the first token of each document, then the end of the last: [num_documents + 1] int64.

        Reads the whole index.
        """
        starts = np.append(self.sequence_pointers, self.header.bin_bytes) // self.dtype.itemsize
        return starts[self.document_indices]

    def document(self, i: int) -> np.ndarray:
        """Return the tokens of one document, mapped."""
        if not 0 <= i < self.num_documents:
            raise IndexError(f"{self.prefix}: no document {i}; it has {format_number(self.num_documents, 'document')}")
        first, last = (self._sequence_start(int(sequence)) for sequence in self.document_indices[i : i + 2])
        return self.tokens[first:last]

    def _sequence_start(self, sequence: int) -> int:
        if sequence == self.header.num_sequences:
            return self.num_tokens
        return int(self.sequence_pointers[sequence]) // self.dtype.itemsize

    def release(self) -> None:
        """Close the mappings and their file descriptors; the next access maps again."""
        for name in ("tokens", "_index"):
            self.__dict__.pop(name, None)


class ShardWriter:
    """Write one shard under temporary names; `commit` renames it to its final name, `abort` removes it.

    `with ShardWriter(...) as writer:` aborts when the block raises or ends without `commit`.

    Args:
        prefix: path without .bin and .idx; its directory is created when it is missing.
        dtype: integer type of the .bin, see `token_dtype`.
        allow_negative: negative numbers are written too: for labels, since no token has a negative id.
    """

    def __init__(
        self, prefix: str | Path, *, dtype: np.dtype[Any] | type[np.integer[Any]], allow_negative: bool = False
    ) -> None:
        self.prefix = Path(prefix)
        self.dtype = np.dtype(dtype).newbyteorder("<")
        if self.dtype not in CODE_OF_DTYPE:
            raise ValueError(f"dtype must be one of {sorted(map(str, CODE_OF_DTYPE))} (got {self.dtype})")
        self.num_tokens = 0
        self._limits = np.iinfo(self.dtype)
        self._min_value = int(self._limits.min) if allow_negative else 0
        self._lengths = array("i")
        self._buffer = bytearray()
        self._sha256 = hashlib.sha256()
        self.prefix.parent.mkdir(parents=True, exist_ok=True)
        self._stream = open(self._partial(".bin"), "wb")  # noqa: SIM115 - closed by commit or abort

    @property
    def num_documents(self) -> int:
        """Return the number of documents added so far."""
        return len(self._lengths)

    def add_document(self, tokens: np.ndarray) -> None:
        """Append one document.

        Raises:
            ValueError: a token id does not fit the shard's integer type.
        """
        if tokens.size and (tokens.min() < self._min_value or tokens.max() > self._limits.max):
            raise ValueError(f"token ids {tokens.min()} to {tokens.max()} do not fit {self.dtype}")
        self._buffer += tokens.astype(self.dtype, copy=False).tobytes()
        self._lengths.append(tokens.size)
        self.num_tokens += tokens.size
        if len(self._buffer) >= WRITE_CHUNK_BYTES:
            self._flush()

    def commit(self) -> dict[str, dict[str, Any]]:
        """Make both files durable and give them their final names, the index last.

        A former shard's manifest and index are removed first, so that no mixture of the two ever looks complete.

        Returns:
            {".bin": {"bytes": ..., "sha256": ...}, ".idx": {...}}: the records of the files in a manifest.
        Raises:
            ConfigError: no tokens were written; readers refuse an empty shard.
        """
        if not self.num_tokens:
            rule, fix = "must contain tokens", "Add documents, or do not write this shard."
            raise ConfigError([Violation(path=str(self.prefix), value="0 tokens", message=rule, fix=fix)])
        self._flush()
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self._stream.close()
        index = self._index_bytes()
        with open(self._partial(".idx"), "wb") as stream:
            stream.write(index)
            stream.flush()
            os.fsync(stream.fileno())
        for suffix in (".manifest.json", ".idx"):
            shard_file(self.prefix, suffix).unlink(missing_ok=True)
        for suffix in (".bin", ".idx"):
            os.replace(self._partial(suffix), shard_file(self.prefix, suffix))
        sync_directory(self.prefix.parent)
        bin_bytes = self.num_tokens * self.dtype.itemsize
        return {
            ".bin": {"bytes": bin_bytes, "sha256": self._sha256.hexdigest()},
            ".idx": {"bytes": len(index), "sha256": hashlib.sha256(index).hexdigest()},
        }

    def abort(self) -> None:
        """Remove the temporary files; does nothing after `commit`."""
        self._stream.close()
        for suffix in (".bin", ".idx"):
            self._partial(suffix).unlink(missing_ok=True)

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.abort()

    def _partial(self, suffix: str) -> Path:
        return shard_file(self.prefix, f"{suffix}.partial")

    def _flush(self) -> None:
        self._stream.write(self._buffer)
        self._sha256.update(self._buffer)
        self._buffer.clear()

    def _index_bytes(self) -> bytes:
        lengths = np.frombuffer(self._lengths, dtype=np.int32)
        ends = np.cumsum(lengths, dtype=np.int64) * self.dtype.itemsize
        pointers = ends - lengths.astype(np.int64) * self.dtype.itemsize
        count = len(lengths)
        header = HEADER.pack(MAGIC, INDEX_VERSION, CODE_OF_DTYPE[self.dtype], count, count + 1)
        indices = np.arange(count + 1, dtype="<i8")
        return b"".join([header, lengths.astype("<i4").tobytes(), pointers.astype("<i8").tobytes(), indices.tobytes()])
