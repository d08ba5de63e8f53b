"""Read and write a shard's manifest, and check the shard against it.

Numpy and the standard library only: data_tools and trainer share this file. docs/data/shard_format.md describes its
fields.
"""

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np

from trireme.errors import ConfigError, Violation
from trireme.files import write_whole
from trireme.progress import format_number
from trireme.shards.shard import REBUILD, ShardReader, shard_file

MANIFEST_SUFFIX = ".manifest.json"
MANIFEST_VERSION = 1
HASH_CHUNK_BYTES = 4 << 20
INDEX_CHUNK_ENTRIES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class ShardManifest:
    """Record a shard's files at the time they were committed, and the settings that made it."""

    num_documents: int
    num_tokens: int
    dtype: str
    """Integer type of the .bin by numpy's name, such as uint16."""
    files: dict[str, dict[str, Any]]
    """{suffix: {"bytes": size, "sha256": hex digest}} of every file of the shard, the manifest itself excepted."""
    tokenizer_sha256: str | None = None
    """Hex digest of the tokenizer's model file."""
    vocab_size: int | None = None
    """Tokens in that tokenizer's vocabulary; every id in the shard is below it."""
    settings: dict[str, Any] = field(default_factory=dict)
    """The settings that made the shard."""
    created_by: str = ""
    """Program and version that wrote the shard."""
    version: int = MANIFEST_VERSION
    """Version of this record."""

    @property
    def tokens_sha256(self) -> str | None:
        """Hex digest of the .bin; None where the manifest does not record it."""
        record = self.files.get(".bin")
        return None if record is None else str(record["sha256"])


def write_manifest(prefix: str | Path, manifest: ShardManifest) -> None:
    """Commit a manifest: durable, atomic, and last of a shard's files, so it marks the shard as complete."""
    write_whole(shard_file(prefix, MANIFEST_SUFFIX), json.dumps(asdict(manifest), indent=2, sort_keys=True) + "\n")


def read_manifest(prefix: str | Path) -> ShardManifest | None:
    """Read a shard's manifest; None when it has none, as shards that Megatron-LM wrote.

    Raises:
        ConfigError: the manifest is not valid JSON, of another version, or lacks fields.
    """
    path = shard_file(prefix, MANIFEST_SUFFIX)

    def broken(value: Any, rule: str) -> ConfigError:
        return ConfigError([Violation(path=str(path), value=value, message=rule, fix=REBUILD)])

    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise broken("", f"cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise broken("", f"must be JSON: {error}") from error
    if not isinstance(record, dict) or record.get("version") != MANIFEST_VERSION:
        found = record.get("version") if isinstance(record, dict) else "none"
        raise broken(f"version {found}", f"must have manifest version {MANIFEST_VERSION}")
    known = {f.name for f in fields(ShardManifest)}
    missing = sorted({"num_documents", "num_tokens", "dtype", "files"} - set(record))
    if missing or not _is_file_table(record["files"]):
        raise broken("", f"incomplete: it lacks {', '.join(missing) or 'a table of files'}")
    # A newer writer may add fields within one version; they do not change the meaning of the known ones.
    return ShardManifest(**{name: value for name, value in record.items() if name in known})


def find_tokens_sha256(prefix: str | Path) -> str | None:
    """Return the hash of the tokens from the shard's manifest; None where it is missing or damaged."""
    try:
        manifest = read_manifest(prefix)
    except ConfigError:  # the checks before the start report it
        return None
    return None if manifest is None else manifest.tokens_sha256


def _is_file_table(files: Any) -> bool:
    return isinstance(files, dict) and all(
        isinstance(f, dict) and {"bytes", "sha256"} <= set(f) for f in files.values()
    )


def hash_file(path: str | Path) -> str:
    """Compute a file's sha256 in constant memory; threads hash in parallel because hashlib releases the lock."""
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(HASH_CHUNK_BYTES))
    with open(path, "rb", buffering=0) as stream:
        while size := stream.readinto(buffer):
            digest.update(buffer[:size])
    return digest.hexdigest()


def check_shard(prefix: str | Path, *, verify: Literal["none", "size", "checksum", "full"] = "size") -> list[Violation]:
    """Find all errors of one shard.

    Args:
        verify: none runs the checks of opening (files, header, version, size of the .bin against the index);
            size also compares counts and file sizes with the manifest; checksum also compares every file's sha256
            with the manifest and every entry of the index with its neighbors (reads every byte); full is the same
            as checksum here.
    """
    try:
        reader = ShardReader(prefix)
    except ConfigError as error:
        return list(error.violations)
    if verify == "none":
        return []
    try:
        manifest = read_manifest(prefix)
    except ConfigError as error:
        return list(error.violations)
    found = _check_against_manifest(reader, manifest) if manifest else []
    if found or verify == "size":
        return found
    if manifest:
        found = _check_checksums(reader.prefix, manifest)
    return found or _check_index_entries(reader)


def _check_against_manifest(reader: ShardReader, manifest: ShardManifest) -> list[Violation]:
    path = str(shard_file(reader.prefix, MANIFEST_SUFFIX))
    header = {"num_documents": reader.num_documents, "num_tokens": reader.num_tokens, "dtype": reader.dtype.name}
    found = []
    for name, expected in header.items():
        value = getattr(manifest, name)
        if value != expected:
            rule = f"does not match the shard, whose index says {name} {expected}"
            found.append(Violation(path=path, value=f"{name} {value}", message=rule, fix=REBUILD))
    for suffix, record in manifest.files.items():
        file = shard_file(reader.prefix, suffix)
        if not file.is_file():
            rule = "no such file, but the shard's manifest lists it"
            found.append(Violation(path=str(file), value="", message=rule, fix=REBUILD))
        elif file.stat().st_size != record["bytes"]:
            rule = f"size must be {record['bytes']} bytes, as recorded in its manifest"
            found.append(
                Violation(path=str(file), value=format_number(file.stat().st_size, "byte"), message=rule, fix=REBUILD)
            )
    return found


def _check_checksums(prefix: Path, manifest: ShardManifest) -> list[Violation]:
    files = [shard_file(prefix, suffix) for suffix in manifest.files]
    with ThreadPoolExecutor(max_workers=len(files) or 1) as pool:
        digests = list(pool.map(hash_file, files))
    found = []
    for file, digest, record in zip(files, digests, manifest.files.values(), strict=True):
        if digest != record["sha256"]:
            rule = f"corrupted: its manifest records sha256 {record['sha256']}"
            found.append(Violation(path=str(file), value=f"sha256 {digest}", message=rule, fix=REBUILD))
    return found


def _check_index_entries(reader: ShardReader) -> list[Violation]:
    """Compare every entry of the index with its neighbors, a chunk at a time."""
    path = str(shard_file(reader.prefix, ".idx"))
    itemsize, count = reader.dtype.itemsize, reader.header.num_sequences
    expected_start = 0
    for first in range(0, count, INDEX_CHUNK_ENTRIES):
        lengths = reader.sequence_lengths[first : first + INDEX_CHUNK_ENTRIES].astype(np.int64)
        ends = expected_start + np.cumsum(lengths) * itemsize
        starts = ends - lengths * itemsize
        pointers = reader.sequence_pointers[first : first + INDEX_CHUNK_ENTRIES]
        wrong = np.flatnonzero((pointers != starts) | (lengths < 0))
        if wrong.size:
            at = int(wrong[0])
            rule = f"corrupted: sequence {first + at} of length {lengths[at]} must start at byte {starts[at]}"
            return [Violation(path=path, value=f"byte {pointers[at]}", message=rule, fix=REBUILD)]
        expected_start = int(ends[-1])
    indices = reader.document_indices
    if indices[0] != 0 or np.any(indices[1:] < indices[:-1]) or indices[-1] > count:
        rule = f"corrupted: document indices must ascend from sequence 0 to {count}"
        return [Violation(path=path, value="", message=rule, fix=REBUILD)]
    return []
