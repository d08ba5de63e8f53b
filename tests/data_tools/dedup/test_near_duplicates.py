"""Clusters across the whole corpus: right, the same each time, and in the ledger."""

import json
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from data_tools.dedup.minhash import KEYS_NAME, find_clusters, read_bands
from data_tools.work.spool import SpoolWriter
from tests.data_tools.conftest import Prepared
from tests.data_tools.sample_inputs import hash_files, make_text, run_prepare, sources_override, write_jsonl
from trireme.shards.document_table import DocumentTable
from trireme.shards.shard import ShardReader


@given(rows=st.lists(st.tuples(*[st.integers(0, 12)] * 3), max_size=40))
def test_clusters_are_the_connected_documents(rows: list[tuple[int, int, int]]) -> None:
    keys = np.array(rows, np.uint64).reshape(-1, 3)
    expected = list(range(len(rows)))
    for _ in rows:  # the smallest number spreads by one document each time at least
        for i, one in enumerate(rows):
            for j, other in enumerate(rows):
                if any(a == b for a, b in zip(one, other, strict=True)):
                    expected[i] = expected[j] = min(expected[i], expected[j])
    assert find_clusters(keys.T, num_documents=len(rows)).tolist() == expected


def test_a_long_chain_is_one_cluster() -> None:
    """Each document is like the next alone, by turns in either band, in an order that has nothing to do with it."""
    count = 20_000
    order = np.random.Generator(np.random.PCG64(3)).permutation(count)
    even, odd = np.empty(count, np.uint64), np.empty(count, np.uint64)
    even[order], odd[order] = np.arange(count) // 2, (np.arange(count) + 1) // 2
    assert not find_clusters([even, odd], num_documents=count).any()


def test_bands_are_read_from_all_workers_files(tmp_path: Path) -> None:
    keys = np.arange(3 * 10, dtype=np.uint64).reshape(3, 10)
    writers = [SpoolWriter(tmp_path, spool=str(worker), name=KEYS_NAME) for worker in (0, 1)]
    refs = []
    for worker, first, last in ((1, 0, 4), (0, 4, 5), (1, 5, 10)):
        blob_ref = writers[worker].append_bytes(keys[:, first:last].tobytes())
        refs.append((blob_ref, first, last - first))
    bands = list(read_bands(tmp_path, refs, num_bands=3, num_documents=10))
    assert (np.array(bands) == keys).all()


def test_the_first_of_a_cluster_is_kept_whatever_the_number_of_workers(prepared: Prepared, tmp_path: Path) -> None:
    texts = [make_text(seed, num_sentences=40) for seed in range(30)]
    changed = [text.replace(" Item ", " Number ", 1) for text in texts[:10]]
    chinese = [
        "".join(chr(0x4E00 + (seed * 977 + place * place * 31) % 5000) for place in range(300)) for seed in (1, 2)
    ]
    changed_chinese = chinese[0][:100] + "的" + chinese[0][101:]
    files = [
        write_jsonl(tmp_path / f"{name}.jsonl", ({"text": text, "title": f"{name}{n}"} for n, text in enumerate(part)))
        for name, part in (
            ("a", texts[:20]),
            ("b", [*changed, texts[3], *chinese]),
            ("c", [*texts[20:], changed_chinese]),
        )
    ]
    common = (
        sources_override(("jsonl", files)),
        f"data_prep.tokenizer.path={prepared.output / 'tokenizer.model'}",
        "data_prep.split.validation_fraction=0.2",
        "data_prep.near_duplicates.is_enabled=true",
    )
    outputs = [tmp_path / "one", tmp_path / "three"]
    for output, options in zip(outputs, (["num_workers=1"], ["num_workers=3", "batch_bytes=3000"]), strict=True):
        done = run_prepare(*common, f"data_prep.output_dir={output}", *(f"data_prep.{option}" for option in options))
        assert done.returncode == 0, done.stderr
    assert hash_files(outputs[0]) == hash_files(outputs[1])
    ledger = json.loads((outputs[0] / "ledger.json").read_text())
    assert [file["dropped"] for file in ledger["files"]] == [
        {},
        {"duplicate": 1, "near_duplicate": 10},
        {"near_duplicate": 1},
    ]
    kept = {}
    for split in ("train", "validation"):
        for number in range(ShardReader(outputs[0] / split).num_documents):
            origin = DocumentTable(outputs[0] / f"{split}.documents.parquet").origin(number)
            kept[origin.title] = origin.text_hash
    assert set(kept) == {f"a{n}" for n in range(20)} | {"b11", "b12"} | {f"c{n}" for n in range(10)}
    example = next(e for e in ledger["files"][2]["examples"] if e["reason"] == "near_duplicate")
    assert (example["record"], example["name"]) == (10, "c10")
    assert example["detail"] == f"of the document with text_hash {kept['b11']}"
