"""Manifests, and checking shards against them."""

import hashlib
import json
import os
import struct
from pathlib import Path

import numpy as np
import pytest

from tests.data.shards import make_documents, write_shard
from trireme.errors import ConfigError
from trireme.shards.manifest import check_shard, hash_file, read_manifest
from trireme.shards.shard import ShardReader


@pytest.fixture
def prefix(tmp_path: Path) -> Path:
    documents = make_documents(num_tokens=2000)
    return write_shard(tmp_path / "s", documents, tokenizer_sha256="ab", vocab_size=1000, settings={"a": [1, "x"]})


def _flip_bit(path: Path, offset: int) -> None:
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(content)


def _messages(prefix: Path, verify: str) -> list[str]:
    return [str(violation) for violation in check_shard(prefix, verify=verify)]


def test_manifest_round_trip(prefix: Path) -> None:
    manifest = read_manifest(prefix)
    assert manifest is not None
    assert (manifest.num_tokens, manifest.dtype, manifest.vocab_size) == (2000, "uint16", 1000)
    assert manifest.settings == {"a": [1, "x"]}
    for suffix in (".bin", ".idx"):
        content = Path(f"{prefix}{suffix}").read_bytes()
        expected = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        assert manifest.files[suffix] == expected


def test_no_manifest(tmp_path: Path) -> None:
    prefix = write_shard(tmp_path / "s", [np.arange(5)])
    assert read_manifest(prefix) is None
    assert check_shard(prefix, verify="checksum") == []


def test_hash_of_several_chunks(tmp_path: Path) -> None:
    content = os.urandom((9 << 20) + 3)
    (tmp_path / "f").write_bytes(content)
    assert hash_file(tmp_path / "f") == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("verify", ["none", "size", "checksum"])
def test_whole_shard(prefix: Path, verify: str) -> None:
    assert _messages(prefix, verify) == []


@pytest.mark.parametrize("suffix", [".bin", ".idx"])
def test_flipped_bit_is_found_by_checksum(prefix: Path, suffix: str) -> None:
    # Byte 40 of the index is in the length of the second document: no check of sizes sees it.
    _flip_bit(Path(f"{prefix}{suffix}"), 40)
    assert _messages(prefix, "size") == []
    (message,) = _messages(prefix, "checksum")
    assert message.startswith(f"{prefix}{suffix}: corrupted: its manifest records sha256 ")
    assert " (got sha256 " in message


@pytest.mark.parametrize("section", ["length", "pointer", "document"])
def test_damaged_index_is_found_without_a_manifest(tmp_path: Path, section: str) -> None:
    prefix = write_shard(tmp_path / "s", make_documents(num_tokens=2000))
    count = ShardReader(prefix).header.num_sequences
    offset = {"length": 34 + 4 * 3, "pointer": 34 + 4 * count + 8 * 3, "document": 34 + 12 * count + 8 * 3 + 4}[section]
    _flip_bit(Path(f"{prefix}.idx"), offset)
    (message,) = _messages(prefix, "checksum")
    assert message.startswith(f"{prefix}.idx: corrupted: ")


@pytest.mark.parametrize("verify", ["none", "size", "checksum"])
def test_truncation_is_found_at_every_level(prefix: Path, verify: str) -> None:
    os.truncate(f"{prefix}.bin", 2000)
    (message,) = _messages(prefix, verify)
    assert f"{prefix}.bin: truncated: its index expects 4000 bytes" in message


def test_manifest_of_another_shard(prefix: Path) -> None:
    record = json.loads(Path(f"{prefix}.manifest.json").read_text())
    record["num_tokens"] = 7
    Path(f"{prefix}.manifest.json").write_text(json.dumps(record))
    (message,) = _messages(prefix, "size")
    assert message.startswith(
        f"{prefix}.manifest.json: does not match the shard, whose index says num_tokens 2000 (got num_tokens 7)."
    )


def test_every_listed_file_is_looked_at(prefix: Path) -> None:
    record = json.loads(Path(f"{prefix}.manifest.json").read_text())
    record["files"][".documents.parquet"] = {"bytes": 3, "sha256": hashlib.sha256(b"abc").hexdigest()}
    Path(f"{prefix}.manifest.json").write_text(json.dumps(record))
    table = Path(f"{prefix}.documents.parquet")
    assert f"{table}: no such file, but the shard's manifest lists it." in _messages(prefix, "size")[0]
    table.write_bytes(b"ab")
    assert f"{table}: size must be 3 bytes, as recorded in its manifest (got 2 bytes)." in _messages(prefix, "size")[0]
    table.write_bytes(b"abx")
    assert _messages(prefix, "size") == []
    assert f"{table}: corrupted" in _messages(prefix, "checksum")[0]
    table.write_bytes(b"abc")
    assert _messages(prefix, "checksum") == []


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        ("{", "must be JSON: "),
        ("[]", "must have manifest version 1"),
        ('{"version": 9}', "must have manifest version 1"),
        ('{"version": 1}', "lacks dtype, files, num_documents, num_tokens"),
        ('{"version": 1, "dtype": 1, "files": {".bin": 3}, "num_documents": 1, "num_tokens": 1}', "table of files"),
    ],
)
def test_damaged_manifest(prefix: Path, content: str, rule: str) -> None:
    Path(f"{prefix}.manifest.json").write_text(content)
    with pytest.raises(ConfigError, match=rule):
        read_manifest(prefix)
    (message,) = _messages(prefix, "size")
    assert rule in message


def test_fields_of_a_newer_writer_are_ignored(prefix: Path) -> None:
    record = json.loads(Path(f"{prefix}.manifest.json").read_text())
    record["language"] = "en"
    Path(f"{prefix}.manifest.json").write_text(json.dumps(record))
    assert _messages(prefix, "checksum") == []


def test_an_absurd_last_pointer_is_named_not_followed(prefix: Path) -> None:
    count = ShardReader(prefix).header.num_sequences
    content = bytearray(Path(f"{prefix}.idx").read_bytes())
    content[34 + 12 * count - 8 : 34 + 12 * count] = struct.pack("<q", 2**61)
    Path(f"{prefix}.idx").write_bytes(content)
    assert "s.bin: truncated" in _messages(prefix, "none")[0]
