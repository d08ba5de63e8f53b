"""Shards: equal to Megatron-Core's in both directions, committed whole or not at all, every fault reported."""

import os
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tests.data.shards import make_documents, write_shard
from trainer.parallel import cpu_shim
from trireme.errors import ConfigError
from trireme.shards.shard import ShardReader, ShardWriter, token_dtype

cpu_shim.install()

from megatron.core.datasets.indexed_dataset import (  # noqa: E402 - the shim comes first
    DType,
    IndexedDataset,
    IndexedDatasetBuilder,
)

DTYPES = [np.uint8, np.int16, np.uint16, np.int32, np.int64]


def _write_with_megatron(prefix: Path, documents: list[np.ndarray], dtype: type) -> None:
    builder = IndexedDatasetBuilder(f"{prefix}.bin", dtype=dtype)
    for document in documents:
        builder.add_document(torch.from_numpy(document.astype(np.int64)), [len(document)])
    builder.finalize(f"{prefix}.idx")


@pytest.mark.parametrize("dtype", DTYPES)
def test_files_are_byte_identical_to_megatrons(tmp_path: Path, dtype: type) -> None:
    documents = make_documents(num_tokens=3000, vocab_size=100)
    assert any(len(document) == 0 for document in documents)
    write_shard(tmp_path / "ours", documents, dtype=dtype)
    _write_with_megatron(tmp_path / "theirs", documents, dtype)
    for suffix in (".bin", ".idx"):
        assert (tmp_path / f"ours{suffix}").read_bytes() == (tmp_path / f"theirs{suffix}").read_bytes()


def test_megatron_reads_our_shard_token_for_token(tmp_path: Path) -> None:
    documents = make_documents(num_tokens=3000)
    prefix = write_shard(tmp_path / "ours", documents)
    dataset = IndexedDataset(str(prefix))
    assert len(dataset) == len(documents)
    for i, document in enumerate(documents):
        np.testing.assert_array_equal(dataset[i], document)


def test_we_read_megatrons_shard_token_for_token(tmp_path: Path) -> None:
    documents = make_documents(num_tokens=3000)
    _write_with_megatron(tmp_path / "theirs", documents, np.uint16)
    reader = ShardReader(tmp_path / "theirs")
    assert (reader.num_documents, reader.num_tokens) == (len(documents), 3000)
    np.testing.assert_array_equal(reader.tokens, np.concatenate(documents))
    for i, document in enumerate(documents):
        np.testing.assert_array_equal(reader.document(i), document)
        np.testing.assert_array_equal(reader.tokens[slice(*reader.document_offsets[i : i + 2])], document)


@pytest.mark.parametrize("multimodal", [False, True])
def test_we_read_documents_of_several_sequences_and_modes(tmp_path: Path, multimodal: bool) -> None:
    builder = IndexedDatasetBuilder(str(tmp_path / "theirs.bin"), dtype=np.int32, multimodal=multimodal)
    modes = {"modes": [0, 1]} if multimodal else {}
    builder.add_document(torch.arange(7), [3, 4], **modes)
    builder.add_document(torch.arange(7, 12), [0, 5], **modes)
    builder.finalize(str(tmp_path / "theirs.idx"))
    reader = ShardReader(tmp_path / "theirs")
    assert (reader.num_documents, reader.header.num_sequences, reader.num_tokens) == (2, 4, 12)
    assert reader.header.has_modes == multimodal
    np.testing.assert_array_equal(reader.document(0), np.arange(7))
    np.testing.assert_array_equal(reader.document(1), np.arange(7, 12))
    np.testing.assert_array_equal(reader.document_offsets, [0, 7, 12])


@given(documents=st.lists(arrays(np.int64, st.integers(0, 9), elements=st.integers(0, 65535)), min_size=1))
def test_any_documents_survive_the_round_trip(tmp_path_factory: pytest.TempPathFactory, documents: list) -> None:
    if not any(len(document) for document in documents):
        documents.append(np.array([1]))
    reader = ShardReader(write_shard(tmp_path_factory.mktemp("shard") / "s", documents))
    assert reader.num_documents == len(documents)
    for i, document in enumerate(documents):
        np.testing.assert_array_equal(reader.document(i), document)


@pytest.mark.parametrize("vocab_size", [1, 256, 32000, 65499, 65500, 128256])
def test_token_dtype_is_megatrons_choice(vocab_size: int) -> None:
    assert token_dtype(vocab_size) == np.dtype(DType.optimal_dtype(vocab_size))


def test_prefix_may_hold_dots(tmp_path: Path) -> None:
    prefix = write_shard(tmp_path / "wiki.en.v1", [np.arange(5)])
    assert ShardReader(prefix).num_tokens == 5


def test_document_numbers_are_checked(tmp_path: Path) -> None:
    reader = ShardReader(write_shard(tmp_path / "s", [np.arange(5)]))
    for number in (-1, 1):
        with pytest.raises(IndexError, match="has 1"):
            reader.document(number)


def test_release_gives_descriptors_back_and_reading_goes_on(tmp_path: Path) -> None:
    reader = ShardReader(write_shard(tmp_path / "s", [np.arange(5)]))
    before = len(os.listdir("/proc/self/fd"))
    assert reader.document(0)[4] == 4
    assert len(os.listdir("/proc/self/fd")) > before
    reader.release()
    assert len(os.listdir("/proc/self/fd")) == before
    assert reader.tokens[3] == 3


# Writing


def test_nothing_has_a_final_name_before_commit_and_nothing_is_left_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="stop"), ShardWriter(tmp_path / "s", dtype=np.uint16) as writer:
        writer.add_document(np.arange(5))
        assert not (tmp_path / "s.bin").exists()
        raise RuntimeError("stop")
    assert list(tmp_path.iterdir()) == []


def test_leaving_without_commit_leaves_nothing(tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "s", dtype=np.uint16) as writer:
        writer.add_document(np.arange(5))
    assert list(tmp_path.iterdir()) == []


def test_commit_leaves_the_two_files_and_replaces_a_former_shard(tmp_path: Path) -> None:
    write_shard(tmp_path / "s", [np.arange(50)], with_manifest=True)
    write_shard(tmp_path / "s", [np.arange(5)])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s.bin", "s.idx"]
    assert ShardReader(tmp_path / "s").num_tokens == 5


def test_a_writer_that_stops_at_any_point_never_leaves_a_shard_that_opens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_shard(tmp_path / "s", [np.arange(50)], with_manifest=True)
    real_replace = os.replace
    calls = []

    def fail_at_second(source: Path, target: Path) -> None:
        calls.append(target)
        if len(calls) == 2:
            raise OSError("power failure")
        real_replace(source, target)

    monkeypatch.setattr("trireme.shards.shard.os.replace", fail_at_second)
    with pytest.raises(OSError, match="power failure"):
        write_shard(tmp_path / "s", [np.arange(5)])
    with pytest.raises(ConfigError, match="no such file"):
        ShardReader(tmp_path / "s")


@pytest.mark.parametrize("token", [-1, 65536])
def test_tokens_that_do_not_fit_are_refused(tmp_path: Path, token: int) -> None:
    with ShardWriter(tmp_path / "s", dtype=np.uint16) as writer, pytest.raises(ValueError, match="do not fit uint16"):
        writer.add_document(np.array([5, token]))


def test_an_empty_shard_is_not_committed(tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "s", dtype=np.uint16) as writer:
        writer.add_document(np.array([], dtype=np.uint16))
        with pytest.raises(ConfigError, match="must contain tokens"):
            writer.commit()
    assert list(tmp_path.iterdir()) == []


def test_documents_beyond_one_write_chunk(tmp_path: Path) -> None:
    documents = [np.arange(1 << 20, dtype=np.int32) + i for i in range(3)]
    reader = ShardReader(write_shard(tmp_path / "s", documents, dtype=np.int32))
    np.testing.assert_array_equal(reader.tokens, np.concatenate(documents))


# Faults


def _fault(prefix: Path) -> str:
    with pytest.raises(ConfigError) as error:
        ShardReader(prefix)
    assert all(violation.fix for violation in error.value.violations)
    return str(error.value)


@pytest.fixture
def prefix(tmp_path: Path) -> Path:
    return write_shard(tmp_path / "s", [np.arange(1000), np.arange(500)])


def _overwrite(path: Path, offset: int, content: bytes) -> None:
    with path.open("r+b") as stream:
        stream.seek(offset)
        stream.write(content)


@pytest.mark.parametrize("size", [1500, 2998])
def test_truncated_bin(prefix: Path, size: int) -> None:
    os.truncate(f"{prefix}.bin", size)
    assert (
        f"{prefix}.bin: truncated: its index expects 3000 bytes (1500 tokens of 2) (got {size} bytes). Copy it again"
        in _fault(prefix)
    )


def test_empty_bin(prefix: Path) -> None:
    os.truncate(f"{prefix}.bin", 0)
    assert f"{prefix}.bin: empty: its index expects 3000 bytes" in _fault(prefix)


def test_bin_of_another_shard(prefix: Path) -> None:
    os.truncate(f"{prefix}.bin", 4000)
    assert f"{prefix}.bin: too long: its index expects 3000 bytes" in _fault(prefix)


@pytest.mark.parametrize("size", [9, 33, 34, 60, 81])
def test_truncated_idx(prefix: Path, size: int) -> None:
    os.truncate(f"{prefix}.idx", size)
    assert f"{prefix}.idx: truncated" in _fault(prefix) and f"(got {size} bytes)" in _fault(prefix)


def test_empty_idx(prefix: Path) -> None:
    os.truncate(f"{prefix}.idx", 0)
    assert f"{prefix}.idx: must not be empty: an index has at least 34 bytes (got 0 bytes)" in _fault(prefix)


def test_idx_too_long(prefix: Path) -> None:
    os.truncate(f"{prefix}.idx", 200)
    assert "longer than its header says: 2 sequences and 3 document indices take 82 bytes" in _fault(prefix)


def test_wrong_magic(prefix: Path) -> None:
    _overwrite(Path(f"{prefix}.idx"), 0, b"NOTANIDX")
    assert "must be a token index, which starts with b'MMIDIDX\\x00\\x00' (got b'NOTANIDX\\x00')" in _fault(prefix)


def test_wrong_version(prefix: Path) -> None:
    _overwrite(Path(f"{prefix}.idx"), 9, struct.pack("<Q", 7))
    assert f"{prefix}.idx: must have version 1 (got version 7)" in _fault(prefix)


@pytest.mark.parametrize("code", [0, 6, 7, 99])
def test_wrong_dtype(prefix: Path, code: int) -> None:
    _overwrite(Path(f"{prefix}.idx"), 17, bytes([code]))
    assert f"{prefix}.idx: dtype code must be one of [1, 2, 3, 4, 5, 8] (got dtype code {code})" in _fault(prefix)


def test_absurd_counts(prefix: Path) -> None:
    _overwrite(Path(f"{prefix}.idx"), 18, struct.pack("<Q", 2**60))
    assert f"{prefix}.idx: truncated: " in _fault(prefix)


def test_damaged_last_entry(prefix: Path) -> None:
    _overwrite(Path(f"{prefix}.idx"), 34 + 4, struct.pack("<i", -5))
    assert "corrupted: its last entry is not a place in a .bin" in _fault(prefix)


def test_missing_files_are_all_named(prefix: Path) -> None:
    Path(f"{prefix}.bin").unlink()
    assert f"{prefix}.bin: no such file." in _fault(prefix)
    Path(f"{prefix}.idx").unlink()
    assert f"{prefix}.idx: no such file." in _fault(prefix)
    assert f"{prefix}.bin: no such file." in _fault(prefix)


def test_a_file_name_in_place_of_the_prefix(prefix: Path) -> None:
    assert f"Use {prefix}" in _fault(Path(f"{prefix}.bin"))


@pytest.mark.parametrize("documents", [[], [torch.tensor([], dtype=torch.int64)]])
def test_megatron_shard_without_tokens(tmp_path: Path, documents: list[torch.Tensor]) -> None:
    _write_with_megatron(tmp_path / "s", [document.numpy() for document in documents], np.uint16)
    what = "tokens" if documents else "documents"
    assert f"{tmp_path}/s.idx: must contain {what} (got 0 {what})." in _fault(tmp_path / "s")
