"""Small shards for tests."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from trireme.shards.manifest import ShardManifest, write_manifest
from trireme.shards.shard import ShardWriter


def make_documents(*, num_tokens: int, seed: int = 0, vocab_size: int = 1000) -> list[np.ndarray]:
    """Documents of 0 to 40 tokens that hold num_tokens together."""
    generator = np.random.default_rng(seed)
    tokens = generator.integers(0, vocab_size, size=num_tokens)
    cuts = np.sort(generator.integers(0, num_tokens + 1, size=num_tokens // 20))
    return np.split(tokens, cuts)


def write_shard(
    prefix: Path,
    documents: Sequence[np.ndarray],
    *,
    dtype: Any = np.uint16,
    with_manifest: bool = False,
    **manifest: Any,
) -> Path:
    with ShardWriter(prefix, dtype=dtype) as writer:
        for document in documents:
            writer.add_document(document)
        files = writer.commit()
    if with_manifest or manifest:
        write_manifest(
            prefix,
            ShardManifest(
                num_documents=writer.num_documents,
                num_tokens=writer.num_tokens,
                dtype=writer.dtype.name,
                files=files,
                **manifest,
            ),
        )
    return prefix


def write_counting_shard(prefix: Path, *, start: int, num_tokens: int) -> Path:
    """A shard whose tokens are start, start + 1, ...: every token says where it lies."""
    return write_shard(prefix, [np.arange(start, start + num_tokens)], dtype=np.int32)
