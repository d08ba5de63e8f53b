"""Shards in datatrove's format: what its own data sets read is what the shard holds."""

import subprocess
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from data_tools.export_shard import _abbreviate, export_datatrove
from tests.data_tools.commands import run_command
from tests.data_tools.conftest import Prepared
from trireme.errors import ConfigError
from trireme.shards.shard import ShardReader, ShardWriter


def write_shard(prefix: Path, lengths: list[int], *, dtype: str = "<u2", seed: int = 0) -> ShardReader:
    source = np.random.default_rng(seed)
    with ShardWriter(prefix, dtype=np.dtype(dtype)) as writer:
        for length in lengths:
            writer.add_document(source.integers(0, min(np.iinfo(dtype).max, 200_000), length))
        writer.commit()
    return ShardReader(prefix)


def run(*arguments: object) -> "subprocess.CompletedProcess[str]":
    return run_command("data_tools.export_shard", *arguments)


@pytest.mark.parametrize(("dtype", "token_bytes"), [("<u2", 2), ("<i4", 4), ("u1", 2), ("<i8", 4)])
def test_files_hold_tokens_ends_and_a_description(tmp_path: Path, dtype: str, token_bytes: int) -> None:
    reader = write_shard(tmp_path / "a", [5, 0, 1, 3000, 7, 0], dtype=dtype)
    written = export_datatrove(str(tmp_path / "a"), str(tmp_path / "out" / "b"), tokenizer="mine")
    assert written.token_bytes == token_bytes
    tokens = np.fromfile(tmp_path / "out" / "b.ds", f"<u{token_bytes}")
    np.testing.assert_array_equal(tokens, reader.tokens)
    ends = np.fromfile(tmp_path / "out" / "b.ds.index", "<u8")
    np.testing.assert_array_equal(ends, [5, 5, 6, 3006, 3013, 3013])
    assert (tmp_path / "out" / "b.ds.metadata").read_text() == f"mine|{token_bytes}\n3013\n3.01 kT"
    assert len(list((tmp_path / "out").iterdir())) == 3


def test_a_prepared_shard_through_the_command(prepared: Prepared, tmp_path: Path) -> None:
    prefix = prepared.output / "train"
    done = run(prefix, tmp_path / "train", "--format", "datatrove")
    assert done.returncode == 0, done.stderr
    reader = ShardReader(prefix)
    assert f"{reader.num_documents} documents, {reader.num_tokens} tokens of 2 bytes each" in done.stdout
    assert (tmp_path / "train.ds.metadata").read_text().startswith("sha256:")
    before = (tmp_path / "train.ds").read_bytes()

    again = run(prepared.output / "validation", tmp_path / "train", "--format", "datatrove")
    assert again.returncode == 2
    assert "already exists" in again.stderr
    assert (tmp_path / "train.ds").read_bytes() == before
    replaced = run(prepared.output / "validation", tmp_path / "train.ds", "--format", "datatrove", "--overwrite")
    assert replaced.returncode == 0, replaced.stderr
    np.testing.assert_array_equal(
        np.fromfile(tmp_path / "train.ds", "<u2"), ShardReader(prepared.output / "validation").tokens
    )


def test_a_damaged_shard_is_refused(prepared: Prepared, tmp_path: Path) -> None:
    for suffix in (".bin", ".idx", ".manifest.json", ".documents.parquet"):
        data = bytearray((prepared.output / f"train{suffix}").read_bytes())
        if suffix == ".bin":
            data[100] ^= 1
        (tmp_path / f"train{suffix}").write_bytes(data)
    with pytest.raises(ConfigError):
        export_datatrove(str(tmp_path / "train"), str(tmp_path / "out"))
    assert not list(tmp_path.glob("out*"))


def test_what_fails_midway_leaves_nothing(tmp_path: Path) -> None:
    write_shard(tmp_path / "a", [10])
    # A negative id, where a shard of other programs could have one.
    tokens = np.array([1, 2, -3], "<i4")
    write_shard(tmp_path / "b", [3], dtype="<i4")
    (tmp_path / "b.bin").write_bytes(tokens.tobytes())
    with pytest.raises(ConfigError, match="token 2 of .*: must not be negative"):
        export_datatrove(str(tmp_path / "b"), str(tmp_path / "out"))
    assert not list(tmp_path.glob("out*"))


def test_memory_does_not_grow_with_the_shard(tmp_path: Path) -> None:
    write_shard(tmp_path / "a", [4000] * 10_000)
    tracemalloc.start()
    export_datatrove(str(tmp_path / "a"), str(tmp_path / "b"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (tmp_path / "b.ds").stat().st_size == 80_000_000
    assert peak < 20 << 20


@pytest.mark.parametrize("dtype", ["<u2", "<i4"])
def test_datatrove_reads_what_was_exported(tmp_path: Path, dtype: str) -> None:
    dataset = pytest.importorskip("datatrove.utils.dataset", reason="needs the extra benchmark (datatrove)")
    readers = [
        write_shard(tmp_path / name, [7, 1, 100, 3, 64, 9], dtype=dtype, seed=seed) for seed, name in enumerate("ab")
    ]
    for reader in readers:
        size = export_datatrove(str(reader.prefix), str(tmp_path / "out" / reader.prefix.name)).token_bytes
    one = dataset.DatatroveFileDataset(
        str(tmp_path / "out" / "a.ds"), seq_len=15, token_size=size, return_positions=True
    )
    expected = readers[0].tokens[: len(one) * 16].reshape(-1, 16)
    np.testing.assert_array_equal(np.stack([one[number]["input_ids"].numpy() for number in range(len(one))]), expected)
    # Positions start anew at the end of each document, so the index was understood.
    positions = np.concatenate([one[number]["positions"].numpy() for number in range(len(one))])
    offsets = readers[0].document_offsets
    starts = [place for place in range(len(positions)) if positions[place] == 0]
    assert {int(end) for end in offsets[:-1] if end < len(positions)} <= set(starts)
    folder = dataset.DatatroveFolderDataset(
        str(tmp_path / "out"), seq_len=15, filename_pattern="*.ds", token_size=size, recursive=False
    )
    both = np.concatenate([reader.tokens[: len(reader.tokens) // 16 * 16].reshape(-1, 16) for reader in readers])
    np.testing.assert_array_equal(np.stack([folder[n]["input_ids"].numpy() for n in range(len(folder))]), both)


@pytest.mark.parametrize("count", [0, 7, 999, 1000, 1234, 99_949, 123_456, 999_499, 1_234_567, 5_400_000_000])
def test_the_abbreviation_is_that_of_datatrove(count: int) -> None:
    humanize = pytest.importorskip("humanize", reason="needs the extra benchmark (datatrove)")
    assert _abbreviate(count) == humanize.metric(count, unit="T")
