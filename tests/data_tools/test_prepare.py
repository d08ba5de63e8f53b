"""The output of `trireme prepare`: whole, right, and the same each time."""

import json
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from data_tools.dedup.corpus import hash_text
from tests.data_tools.conftest import Prepared
from tests.data_tools.sample_inputs import OF_THE_RUN, hash_files, make_text, run_prepare, sources_override, write_jsonl
from trireme.shards.document_table import DocumentOrigin, DocumentTable
from trireme.shards.manifest import check_shard, hash_file, read_manifest
from trireme.shards.shard import ShardReader
from trireme.tokenizer.tokenizer import Tokenizer

SPLITS = ("train", "validation")


def read_documents(output: Path, split: str) -> list[tuple[str, DocumentOrigin]]:
    """Text and origin of every document, from the tokens and the table alone."""
    tokenizer, reader = Tokenizer(output / "tokenizer.model"), ShardReader(output / split)
    found = []
    for number in range(reader.num_documents):
        ids = reader.document(number).tolist()
        assert ids[-1] == tokenizer.eos_id
        assert tokenizer.eos_id not in ids[:-1]
        found.append((tokenizer.decode(ids[:-1]), DocumentTable(output / f"{split}.documents.parquet").origin(number)))
    return found


def test_every_file_is_there_and_whole(prepared: Prepared) -> None:
    shard_files = [
        f"{s}{suffix}" for s in SPLITS for suffix in (".bin", ".documents.parquet", ".idx", ".manifest.json")
    ]
    others = ["ledger.json", "ledger.parquet", "preparation.json", "stats.json", "tokenizer.model", "tokenizer.vocab"]
    assert sorted(path.name for path in prepared.output.iterdir()) == sorted([*shard_files, *others, *OF_THE_RUN])
    for split in SPLITS:
        assert check_shard(prepared.output / split, verify="checksum") == []
        manifest = read_manifest(prepared.output / split)
        assert manifest is not None
        assert manifest.tokenizer_sha256 == hash_file(prepared.output / "tokenizer.model")
        assert manifest.vocab_size == 512
        assert manifest.settings["settings"]["split"]["validation_fraction"] == 0.15
        assert pq.read_table(prepared.output / f"{split}.documents.parquet").num_rows == manifest.num_documents


def test_documents_are_the_texts_in_input_order_with_their_origin(prepared: Prepared) -> None:
    found = {split: read_documents(prepared.output, split) for split in SPLITS}
    for documents in found.values():
        places = [(origin.file, origin.record) for _, origin in documents]
        files = list(dict.fromkeys(file for file, _ in places))
        assert [Path(file).name.split(".")[0] for file in files] == ["pages", "wiki-pages-articles", "records"]
        assert places == sorted(places, key=lambda place: (files.index(place[0]), place[1]))
        for text, origin in documents:
            assert origin.text_hash == hash_text(text).hex()
            assert "Item" in text or "Sylter" in text
    from_json = {o.id: (text, o) for documents in found.values() for text, o in documents if o.source == "my-jsonl"}
    assert {name: text for name, (text, _) in from_json.items()} == {
        f"j{number}": text.strip() for number, text in enumerate(prepared.json_texts)
    }
    assert from_json["j7"][1].url == "https://example.org/j/7"
    assert from_json["j7"][1].title == "Title 7"
    lines = (prepared.inputs / "records.jsonl").read_bytes()
    offset = from_json["j7"][1].offset
    assert offset is not None
    assert json.loads(lines[offset:].splitlines()[0])["id"] == "j7"


def test_no_token_is_unknown_and_counts_are_right(prepared: Prepared) -> None:
    stats = json.loads((prepared.output / "stats.json").read_text())
    tokens = {split: np.array(ShardReader(prepared.output / split).tokens) for split in SPLITS}
    for split in SPLITS:
        texts = [text for text, _ in read_documents(prepared.output, split)]
        assert 0 not in tokens[split]
        assert stats[split]["num_unknown_tokens"] == 0
        assert stats[split]["num_tokens"] == len(tokens[split])
        assert stats[split]["num_documents"] == len(texts)
        assert stats[split]["text_bytes"] == sum(len(text.encode()) for text in texts)
    counts = Counter(tokens["train"].tolist())
    losses = [-math.log((counts[token] + 1) / (len(tokens["train"]) + 512)) for token in tokens["validation"].tolist()]
    assert stats["unigram_entropy_nats"] == pytest.approx(sum(losses) / len(losses), abs=1e-9)
    assert 1 < stats["unigram_entropy_nats"] < math.log(512)


def test_ledger_accounts_for_every_record(prepared: Prepared) -> None:
    ledger = json.loads((prepared.output / "ledger.json").read_text())
    stats = json.loads((prepared.output / "stats.json").read_text())
    for entry in (*ledger["files"], ledger["totals"]):
        assert entry["read"] == entry["kept"] + sum(entry["dropped"].values()) + sum(entry["failed"].values())
    warc, wikipedia, records = ledger["files"]
    assert (warc["kept"], wikipedia["kept"], records["kept"]) == (25, 25, 80)
    assert records["read"] == 83
    assert records["dropped"]["duplicate"] == 1
    assert sum(records["dropped"].values()) + sum(records["failed"].values()) == 3
    assert sum(stats[split]["num_documents"] for split in SPLITS) == ledger["totals"]["kept"] == 130
    duplicate = next(example for example in records["examples"] if example["reason"] == "duplicate")
    assert duplicate["record"] == 82, "the first in input order is kept"


def test_every_record_has_a_row_in_input_order(prepared: Prepared) -> None:
    ledger = json.loads((prepared.output / "ledger.json").read_text())
    rows = pq.read_table(prepared.output / "ledger.parquet").to_pylist()
    assert len(rows) == ledger["totals"]["read"]
    for file in ledger["files"]:
        of_file = [row for row in rows if row["file"] == file["path"]]
        assert [row["record"] for row in of_file] == list(range(file["read"]))
        assert sum(row["reason"] is None for row in of_file) == file["kept"]
        for fate in ("dropped", "failed"):
            assert Counter(row["reason"] for row in of_file if row["fate"] == fate) == file[fate]
    files = [file["path"] for file in ledger["files"]]
    assert [files.index(row["file"]) for row in rows] == sorted(files.index(row["file"]) for row in rows)
    for split in SPLITS:
        table = pq.read_table(prepared.output / f"{split}.documents.parquet").to_pylist()
        names = ("source", "file", "record", "id", "url", "title", "text_hash")
        kept = [tuple(row[name] for name in names) for row in rows if row["fate"] == split]
        assert kept == [tuple(row[name] for name in names) for row in table]
    broken = next(row for row in rows if row["fate"] == "failed")
    assert (broken["record"], broken["text_hash"]) == (3, None)
    assert broken["detail"]
    duplicate = next(row for row in rows if row["reason"] == "duplicate")
    first = next(row for row in rows if row["text_hash"] == duplicate["text_hash"])
    assert (duplicate["title"], first["title"], first["reason"]) == ("Title 1", "Title 1", None)


def test_summary_says_what_happened_and_warns_of_what_failed(prepared: Prepared) -> None:
    stats = json.loads((prepared.output / "stats.json").read_text())
    assert f"unigram entropy of validation: {stats['unigram_entropy_nats']:.4f} nats" in prepared.stdout
    assert "duplicate 1" in prepared.stdout
    assert str(prepared.output / "ledger.json") in prepared.stdout
    assert "warning: 1 record could not be read" in prepared.stderr
    for stage in ("1/5 read", "2/5 decide", "3/5 train_tokenizer", "4/5 tokenize", "5/5 assemble"):
        assert f"{stage}: " in prepared.stderr, "plain lines where there is no terminal"


def test_megatron_reads_the_shards_token_for_token(prepared: Prepared) -> None:
    from trainer.parallel import cpu_shim  # noqa: PLC0415 - imports torch

    cpu_shim.install()
    from megatron.core.datasets.indexed_dataset import IndexedDataset  # noqa: PLC0415 - after the shim

    for split in SPLITS:
        dataset, reader = IndexedDataset(str(prepared.output / split)), ShardReader(prepared.output / split)
        assert len(dataset) == reader.num_documents
        for number in range(len(dataset)):
            np.testing.assert_array_equal(dataset[number], reader.document(number))


def test_one_worker_with_other_batches_gives_the_same_bytes(prepared: Prepared, tmp_path: Path) -> None:
    output = tmp_path / "other"
    done = run_prepare(
        *prepared.overrides,
        f"data_prep.output_dir={output}",
        "data_prep.num_workers=1",
        "data_prep.batch_bytes=9000",
        "data_prep.progress=off",
    )
    assert done.returncode == 0, done.stderr
    assert "tokenize:" not in done.stderr
    assert hash_files(output) == hash_files(prepared.output)


def test_a_finished_preparation_is_not_done_again(prepared: Prepared) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in prepared.output.iterdir()}
    done = run_prepare(*prepared.overrides, f"data_prep.output_dir={prepared.output}", "data_prep.num_workers=2")
    assert done.returncode == 0, done.stderr
    assert "Already up to date (same inputs and settings)." in done.stdout
    assert "unigram entropy" in done.stdout
    assert {path.name: path.stat().st_mtime_ns for path in prepared.output.iterdir()} == before
    assert "1/5 read: " not in done.stderr, "no stage runs"


def test_another_preparation_needs_overwrite_and_more_data_moves_no_document(
    prepared: Prepared, tmp_path: Path
) -> None:
    tokenizer = prepared.output / "tokenizer.model"
    old = write_jsonl(tmp_path / "old.jsonl", ({"text": make_text(seed)} for seed in range(300, 360)))
    more = write_jsonl(tmp_path / "more.jsonl", ({"text": make_text(seed)} for seed in range(340, 420)))
    output = tmp_path / "data"
    common = (
        f"data_prep.tokenizer.path={tokenizer}",
        "data_prep.split.validation_fraction=0.2",
        f"data_prep.output_dir={output}",
        "data_prep.num_workers=1",
    )
    first = run_prepare(*common, sources_override(("jsonl", [old])))
    assert first.returncode == 0, first.stderr
    assert hash_file(output / "tokenizer.model") == hash_file(tokenizer)
    before, hashes = hash_files(output), {}
    for split in SPLITS:
        hashes[split] = {origin.text_hash for _, origin in read_documents(output, split)}

    grown = sources_override(("jsonl", [more, old]))
    refused = run_prepare(*common, grown)
    assert refused.returncode == 2
    assert "contains a preparation with other inputs or settings (inputs, sources" in refused.stderr.replace(
        "settings.", ""
    )
    assert "data_prep.overwrite=true" in refused.stderr
    assert hash_files(output) == before

    replaced = run_prepare(*common, grown, "data_prep.overwrite=true")
    assert replaced.returncode == 0, replaced.stderr
    assert "duplicate 20" in replaced.stdout
    grown_hashes = {s: {origin.text_hash for _, origin in read_documents(output, s)} for s in SPLITS}
    for split in SPLITS:
        assert hashes[split] < grown_hashes[split]
        assert check_shard(output / split, verify="checksum") == []
    assert not grown_hashes["train"] & grown_hashes["validation"]
    assert 5 < len(grown_hashes["validation"]) < 45, "about a fifth of 120"


def test_settings_change_what_is_made(prepared: Prepared, tmp_path: Path) -> None:
    """Another seed holds out other documents; duplicates may stay; nothing need be held out."""
    texts = [make_text(seed) for seed in range(300, 330)] * 2
    file = write_jsonl(tmp_path / "texts.jsonl", ({"text": text} for text in texts))
    model = prepared.output / "tokenizer.model"
    common = (
        f"data_prep.tokenizer.path={model}",
        sources_override(("jsonl", [file])),
        "data_prep.num_workers=1",
    )
    held_out = []
    for seed in (1, 2):
        output = tmp_path / f"seed{seed}"
        done = run_prepare(
            *common,
            f"data_prep.output_dir={output}",
            f"data_prep.split.seed={seed}",
            "data_prep.split.validation_fraction=0.3",
            "data_prep.cleaning.drop_duplicates=false",
        )
        assert done.returncode == 0, done.stderr
        hashes = {s: Counter(origin.text_hash for _, origin in read_documents(output, s)) for s in SPLITS}
        assert sum(map(len, hashes.values())) == 30
        assert all(count == 2 for counter in hashes.values() for count in counter.values())
        held_out.append(set(hashes["validation"]))
    assert held_out[0] != held_out[1]

    output = tmp_path / "none"
    done = run_prepare(*common, f"data_prep.output_dir={output}", "data_prep.split.validation_fraction=0")
    assert done.returncode == 0, done.stderr
    assert not list(output.glob("validation*"))
    assert "warning" not in done.stderr
    assert json.loads((output / "stats.json").read_text())["unigram_entropy_nats"] is None
