"""The header of a token shard: what PREFIX.idx and the size of PREFIX.bin must be, checked in O(1).

Numpy and the standard library only: data_tools and trainer share this file. docs/data_format.md describes the bytes.
"""

import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trainer.common.errors import ConfigError, Violation, raise_if_any
from trainer.common.progress import format_number

MAGIC = b"MMIDIDX\x00\x00"
INDEX_VERSION = 1
HEADER = struct.Struct("<9sQBQQ")
"""Magic, version, dtype code, number of sequences, number of document indices (documents + 1)."""

DTYPE_OF_CODE = {1: "u1", 2: "i1", 3: "<i2", 4: "<i4", 5: "<i8", 8: "<u2"}
CODE_OF_DTYPE = {np.dtype(name): code for code, name in DTYPE_OF_CODE.items()}

REBUILD = "copy it again from its source, or rebuild the shard with `python -m data_tools.prepare`"


def shard_file(prefix: str | Path, suffix: str) -> Path:
    """Append a suffix to a prefix; `Path.with_suffix` would cut prefixes such as `wiki.en`."""
    return Path(f"{prefix}{suffix}")


@dataclass(frozen=True, kw_only=True)
class ShardHeader:
    """What a shard says about itself in its first and last entries, read in O(1)."""

    dtype: np.dtype[Any]
    num_sequences: int
    num_documents: int
    num_tokens: int
    has_modes: bool
    """Megatron's multimodal indices end with one byte per sequence; it does not change where tokens lie."""

    @property
    def bin_bytes(self) -> int:
        """Size that PREFIX.bin must have."""
        return self.num_tokens * self.dtype.itemsize


def read_header(prefix: str | Path) -> ShardHeader:
    """Read and check a shard's header, file sizes and last index entry; touches no token.

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
        return [
            Violation(path=typed, value="a file", rule="is not a shard prefix", fix=f"leave the suffix out: {stem}")
        ]
    fix = "check the prefix (the path without .bin and .idx), or make the shard with `python -m data_tools.prepare`"
    paths = [shard_file(prefix, suffix) for suffix in (".idx", ".bin")]
    return [Violation(path=str(p), value="missing", rule="no such file", fix=fix) for p in paths if not p.is_file()]


def _unreadable(path: Path, error: OSError) -> ConfigError:
    rule = f"cannot be read: {error.strerror}"
    return ConfigError([Violation(path=str(path), value="unreadable", rule=rule, fix="check its permissions and disk")])


def _parse_index(descriptor: int, path: Path) -> ShardHeader:
    found_bytes = os.fstat(descriptor).st_size

    def broken(value: Any, rule: str, fix: str = REBUILD) -> ConfigError:
        return ConfigError([Violation(path=str(path), value=value, rule=rule, fix=fix)])

    if found_bytes == 0:
        raise broken("0 bytes", f"is empty; an index has at least {HEADER.size} bytes")
    raw = os.pread(descriptor, HEADER.size, 0)
    if not raw.startswith(MAGIC[: len(raw)]):
        raise broken(
            raw[: len(MAGIC)], f"is not a token index: it does not start with {MAGIC!r}", "name another prefix"
        )
    if len(raw) < HEADER.size:
        raise broken(format_number(found_bytes, "byte"), f"is truncated: the header alone has {HEADER.size} bytes")
    _, version, code, num_sequences, num_indices = HEADER.unpack(raw)
    if version != INDEX_VERSION:
        raise broken(f"version {version}", f"has an unknown version, expected {INDEX_VERSION}")
    if code not in DTYPE_OF_CODE:
        raise broken(f"dtype code {code}", f"is no integer type; expected one of {sorted(DTYPE_OF_CODE)}")
    dtype = np.dtype(DTYPE_OF_CODE[code])
    expected = HEADER.size + 12 * num_sequences + 8 * num_indices
    if found_bytes not in (expected, expected + num_sequences) or num_indices == 0:
        kind = "truncated" if found_bytes < expected else "longer than its header says"
        counts = (
            f"{format_number(num_sequences, 'sequence')} and"
            f" {format_number(num_indices, 'document index', plural='document indices')}"
        )
        raise broken(format_number(found_bytes, "byte"), f"is {kind}: {counts} take {expected} bytes")
    if num_sequences == 0:
        raise broken("0 documents", "holds no documents", "leave this prefix out, or rebuild the shard from more text")
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
        value, rule = f"length {length} at byte {pointer}", "is corrupted: its last entry is no place in a .bin"
        raise ConfigError([Violation(path=str(path), value=value, rule=rule, fix=REBUILD)])
    if pointer + length == 0:
        fix = "leave this prefix out, or rebuild the shard from more text"
        raise ConfigError([Violation(path=str(path), value="0 tokens", rule="holds no tokens", fix=fix)])
    return pointer // itemsize + length


def _bin_problems(path: Path, header: ShardHeader) -> list[Violation]:
    try:
        found_bytes = path.stat().st_size
    except OSError as error:
        return list(_unreadable(path, error).violations)
    if found_bytes == header.bin_bytes:
        return []
    kind = "is empty" if found_bytes == 0 else "is truncated" if found_bytes < header.bin_bytes else "is too long"
    rule = f"{kind}: its index expects {header.bin_bytes} bytes ({header.num_tokens} tokens of {header.dtype.itemsize})"
    return [Violation(path=str(path), value=format_number(found_bytes, "byte"), rule=rule, fix=REBUILD)]
