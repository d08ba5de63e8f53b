"""`trireme merge`: all documents with their origins, or nothing."""

import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from data_tools import merge
from data_tools.merge import merge_shards
from tests.data.shards import make_documents, write_shard
from tests.data_tools.commands import run_command
from tests.data_tools.conftest import Prepared
from tests.data_tools.sample_inputs import run_inspect
from trireme.errors import ConfigError
from trireme.shards.manifest import check_shard, hash_file, read_manifest, write_manifest
from trireme.shards.shard import ShardReader


def run_merge(*arguments: object) -> "subprocess.CompletedProcess[str]":
    return run_command("data_tools.merge", *arguments)


def write(prefix: Path, seed: int, **manifest: Any) -> list[np.ndarray]:
    documents = make_documents(num_tokens=500, seed=seed)
    write_shard(prefix, documents, **{"tokenizer_sha256": "ab", "vocab_size": 1000, **manifest})
    return documents


def names_in(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_documents_and_origins_follow_each_other(prepared: Prepared, tmp_path: Path) -> None:
    parts = [prepared.output / split for split in ("validation", "train")]
    output = tmp_path / "new" / "all"
    done = run_merge(output, *parts)
    assert done.returncode == 0, done.stderr
    assert check_shard(output, verify="checksum") == []
    suffixes = (".bin", ".documents.parquet", ".idx", ".manifest.json")
    assert names_in(output.parent) == [f"all{suffix}" for suffix in suffixes]
    readers, merged = [ShardReader(part) for part in parts], ShardReader(output)
    assert f"Merged 2 shards into {output}\n  {merged.num_documents} documents" in done.stdout
    np.testing.assert_array_equal(merged.tokens, np.concatenate([reader.tokens for reader in readers]))
    lengths = np.concatenate([np.diff(reader.document_offsets) for reader in readers])
    np.testing.assert_array_equal(np.diff(merged.document_offsets), lengths)
    rows = [row for part in parts for row in pq.read_table(f"{part}.documents.parquet").to_pylist()]
    assert pq.read_table(f"{output}.documents.parquet").to_pylist() == rows
    manifest, old = read_manifest(output), read_manifest(parts[0])
    assert manifest is not None
    assert old is not None
    assert (manifest.tokenizer_sha256, manifest.vocab_size) == (old.tokenizer_sha256, 512)
    assert [entry["settings"]["split"] for entry in manifest.settings["merged"]] == ["validation", "train"]
    number = readers[0].num_documents
    shown = run_inspect(output, "--doc", number, "--tokenizer", prepared.output / "tokenizer.model")
    assert shown.returncode == 0, shown.stderr
    assert f"hash  {rows[number]['text_hash']}" in shown.stdout


def test_shards_without_origins(tmp_path: Path) -> None:
    documents = [document for seed in (1, 2, 3) for document in write(tmp_path / f"s{seed}", seed)]
    output = tmp_path / "all"
    manifest = merge_shards(str(output), [str(tmp_path / f"s{seed}") for seed in (1, 2, 3)])
    assert sorted(manifest.files) == [".bin", ".idx"]
    reader = ShardReader(output)
    assert reader.num_documents == len(documents)
    for number, document in enumerate(documents):
        np.testing.assert_array_equal(reader.document(number), document)


def test_a_table_from_before_there_was_a_column(prepared: Prepared, tmp_path: Path) -> None:
    for suffix in (".bin", ".idx"):
        shutil.copyfile(prepared.output / f"train{suffix}", tmp_path / f"old{suffix}")
    table = pq.read_table(prepared.output / "train.documents.parquet")
    pq.write_table(table.drop_columns(["language"]), tmp_path / "old.documents.parquet")
    manifest = read_manifest(prepared.output / "train")
    assert manifest is not None
    path = tmp_path / "old.documents.parquet"
    entry = {"bytes": path.stat().st_size, "sha256": hash_file(path)}
    write_manifest(tmp_path / "old", replace(manifest, files={**manifest.files, ".documents.parquet": entry}))
    merge_shards(str(tmp_path / "new"), [str(tmp_path / "old")])
    assert pq.read_table(tmp_path / "new.documents.parquet").to_pylist() == table.to_pylist()


def test_what_cannot_be_merged_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    for name, options in (
        ("a", {}),
        ("other", {"tokenizer_sha256": "cd"}),
        ("none", {"tokenizer_sha256": None}),
        ("cut", {}),
    ):
        write(tmp_path / name, 1, **options)
    with open(tmp_path / "cut.bin", "r+b") as stream:
        stream.write(b"\xff\x00")
    before = names_in(tmp_path)
    paths = {name: str(tmp_path / name) for name in ("a", "other", "none", "cut", "missing")}
    for output, prefixes, message in (
        ("all", ["a", "other"], f"tokenizer_sha256 of {paths['other']}: must be ab as in {paths['a']}: all .*got cd"),
        ("all", ["a", "none"], "has no manifest that names its tokenizer"),
        ("all", ["a", "cut"], "corrupt"),
        ("all", ["a", "missing"], "missing.idx"),
        ("all", ["a", "a"], "listed twice"),
        ("a", ["a", "other"], "must not be one of the shards to merge"),
        ("other", ["a"], "already exists"),
    ):
        with pytest.raises(ConfigError, match=message):
            merge_shards(str(tmp_path / output), [paths[prefix] for prefix in prefixes])
    assert names_in(tmp_path) == before
    done = run_merge(tmp_path / "all", paths["a"], paths["missing"])
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("stop_at", range(4))
def test_a_stopped_merge_leaves_no_mixture_that_looks_whole(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_at: int
) -> None:
    """The renames of .bin, .idx, the table of origins and the manifest, each failing in turn over a former shard."""
    parts = [str(prepared.output / split) for split in ("train", "validation")]
    output = str(tmp_path / "all")
    merge_shards(output, parts[:1])
    rename, done = os.replace, []

    def replace(source: object, target: object) -> None:
        if len(done) == stop_at:
            raise OSError(28, "No space left on device", str(target))
        done.append(target)
        rename(source, target)  # type: ignore[call-overload]

    with monkeypatch.context() as patch:
        patch.setattr(merge.os, "replace", replace)
        with pytest.raises(OSError, match="No space left"):
            merge_shards(output, parts[1:], overwrite=True)
    assert not [name for name in names_in(tmp_path) if name.endswith((".bin.partial", ".parquet.partial"))]
    assert not (tmp_path / "all.manifest.json").exists()
    if (tmp_path / "all.documents.parquet").exists():
        assert ShardReader(output).num_documents == pq.read_table(f"{output}.documents.parquet").num_rows
    merge_shards(output, parts[1:], overwrite=True)
    assert check_shard(output, verify="checksum") == []
    np.testing.assert_array_equal(ShardReader(output).tokens, ShardReader(parts[1]).tokens)
