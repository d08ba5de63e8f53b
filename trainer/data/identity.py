"""Identify a data set by the content of its shards: names and sizes are equal for many data sets."""

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple

from trainer.data.mixture import DatasetIdentity
from trireme.errors import ConfigError, Violation
from trireme.shards.manifest import find_tokens_sha256
from trireme.shards.shard import ShardReader, shard_file

SAMPLED_BYTES = 16 << 10
"""Read at the beginning and at the end of each shard's tokens."""
READING_THREADS = 16


def identify_dataset(shards: Sequence[ShardReader], *, seq_length: int) -> DatasetIdentity:
    """Compute the identity of a data set from two small reads of each shard, and its manifest if it has one.

    Raises:
        ConfigError: tokens cannot be read.
    """
    with ThreadPoolExecutor(max_workers=min(READING_THREADS, len(shards)) or 1) as pool:
        samples = list(pool.map(_sample, shards))
        checksums = list(pool.map(find_tokens_sha256, (shard.prefix for shard in shards)))
    length = str(seq_length)
    names = [f"{shard.prefix.name}:{shard.num_tokens}" for shard in shards]
    recorded = [checksum for checksum in checksums if checksum is not None]
    return DatasetIdentity(
        content=_digest([length, *samples]),
        checksum=_digest([length, *recorded]) if len(recorded) == len(shards) else None,
        name=_digest([length, *names]),
    )


def join_identities(parts: Sequence[DatasetIdentity]) -> DatasetIdentity:
    """Return the identity of shards that are read together, such as tokens and labels."""
    checksums = [part.checksum for part in parts if part.checksum is not None]
    return DatasetIdentity(
        content=_digest([part.content for part in parts]),
        checksum=_digest(checksums) if len(checksums) == len(parts) else None,
    )


def _sample(shard: ShardReader) -> str:
    """Return a digest of a shard's header, and of its first and last tokens."""
    digest = hashlib.sha256(repr(astuple(shard.header)).encode())
    num_bytes, path = shard.header.bin_bytes, shard_file(shard.prefix, ".bin")
    try:
        with path.open("rb", buffering=0) as file:
            for start in (0, max(0, num_bytes - SAMPLED_BYTES)):
                digest.update(os.pread(file.fileno(), min(SAMPLED_BYTES, num_bytes - start), start))
    except OSError as error:
        message, fix = f"cannot be read: {error.strerror}", "Check its permissions and disk."
        raise ConfigError([Violation(path=str(path), value="", message=message, fix=fix)]) from error
    return digest.hexdigest()


def _digest(parts: Sequence[str]) -> str:
    return hashlib.blake2b("\n".join(parts).encode(), digest_size=16).hexdigest()
