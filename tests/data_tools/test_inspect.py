"""`trireme inspect`: what it prints, and what it refuses."""

import shutil
from pathlib import Path

import numpy as np

from tests.data.shards import write_shard
from tests.data_tools.conftest import Prepared
from tests.data_tools.sample_inputs import run_inspect
from trireme.shards.document_table import DocumentTable
from trireme.shards.shard import ShardReader


def test_counts_and_a_document_with_its_origin(prepared: Prepared) -> None:
    reader = ShardReader(prepared.output / "train")
    number = reader.num_documents - 1
    done = run_inspect(prepared.output / "train", "--doc", number)
    assert done.returncode == 0, done.stderr
    assert f"{reader.num_documents} documents, {reader.num_tokens} tokens" in done.stdout
    assert "verified: sha256 of .bin, .documents.parquet, .idx" in done.stdout
    origin = DocumentTable(prepared.output / "train.documents.parquet").origin(number)
    assert f"from  my-jsonl: {prepared.inputs / 'records.jsonl'}, record {origin.record}" in done.stdout
    assert f"id    {origin.id}" in done.stdout
    assert prepared.json_texts[int(origin.id[1:])] in done.stdout


def test_documents_are_found_by_url_and_title(prepared: Prepared) -> None:
    num_found = 0
    for split in ("train", "validation"):
        done = run_inspect(prepared.output / f"{split}.bin", "--title", "Article 3")
        assert done.returncode == 0, done.stderr
        num_found += "  title Article 3" in done.stdout
        assert "1 record read with title Article 3:\n  kept: " in done.stdout
        assert "wiki-pages-articles.xml.bz2" in done.stdout
    assert num_found == 1, "in one of them"
    origin = DocumentTable(prepared.output / "train.documents.parquet").origin(2)
    done = run_inspect(prepared.output / "train", "--url", origin.url)
    assert done.returncode == 0, done.stderr
    assert "document 2: " in done.stdout


def test_says_why_a_record_was_dropped(prepared: Prepared, tmp_path: Path) -> None:
    records = f"{prepared.inputs / 'records.jsonl'} (my-jsonl)"
    by_title = run_inspect(prepared.output / "train", "--title", "Title 1")
    assert by_title.returncode == 0, by_title.stderr
    assert "2 records read with title Title 1:" in by_title.stdout
    assert f"  dropped: duplicate; record 82 of {records}" in by_title.stdout
    lost = run_inspect(prepared.output / "train", "--url", "https://example.org/none")
    assert lost.returncode == 2
    assert "and no record read for it has this url" in lost.stderr
    # Without the table of the shard's own documents, the table of all records answers.
    copy = tmp_path / "copy"
    copy.mkdir()
    shutil.copyfile(prepared.output / "ledger.parquet", copy / "ledger.parquet")
    for suffix in (".bin", ".idx"):
        shutil.copyfile(prepared.output / f"validation{suffix}", copy / f"validation{suffix}")
    done = run_inspect(copy / "validation", "--url", "https://example.org/j/7")
    assert done.returncode == 0, done.stderr
    assert "  kept: " in done.stdout


def test_a_shard_of_megatron_without_manifest(prepared: Prepared, tmp_path: Path) -> None:
    write_shard(tmp_path / "theirs", [np.arange(5), np.arange(3)])
    done = run_inspect(tmp_path / "theirs", "--doc", 1)
    assert done.returncode == 0, done.stderr
    assert "2 documents, 8 tokens" in done.stdout
    assert "no manifest" in done.stdout
    assert "0 1 2" in done.stdout
    named = run_inspect(tmp_path / "theirs", "--doc", 1, "--tokenizer", prepared.output / "tokenizer.model")
    assert named.returncode == 0, named.stderr
    lookup = run_inspect(tmp_path / "theirs", "--url", "x")
    assert lookup.returncode == 2
    assert "cannot search: " in lookup.stderr


def test_damage_and_wrong_arguments(prepared: Prepared, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(prepared.output, copy)
    data = bytearray((copy / "train.bin").read_bytes())
    data[10] ^= 1
    (copy / "train.bin").write_bytes(data)
    damaged = run_inspect(copy / "train")
    assert damaged.returncode == 2
    assert f"{copy / 'train.bin'}: " in damaged.stderr
    assert "corrupt" in damaged.stderr
    shutil.copyfile(prepared.output / "train.bin", copy / "train.bin")
    with open(copy / "tokenizer.model", "ab") as stream:
        stream.write(b"\x78\x00")  # a field of the protocol buffer that nobody knows: another file, a valid model
    for arguments, message in (
        (("--doc", 9999), f"--doc: no such document in {copy / 'train'} (got 9999). Use 0 to "),
        (("--doc", 0), "--tokenizer: must be the tokenizer of"),
        (("--doc", 0, "--tokenizer", tmp_path / "none.model"), "no such file"),
    ):
        refused = run_inspect(copy / "train", *arguments)
        assert refused.returncode == 2, refused.stdout
        assert message in refused.stderr
        assert "Traceback" not in refused.stderr
    missing = run_inspect(tmp_path / "nothing")
    assert missing.returncode == 2
    assert str(tmp_path / "nothing.idx") in missing.stderr
