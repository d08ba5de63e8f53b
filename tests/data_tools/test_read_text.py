"""Text and JSONL files: what a document is, and what becomes of broken ones."""

import bz2
import gzip
import json
import lzma

import pyarrow
import pytest

from data_tools.config import CleaningConfig
from tests.data_tools.records import LONG, read_clean, read_raw


@pytest.mark.parametrize(
    ("split", "expected"),
    [
        ("file", [(0, "one\ntwo\n\n  three")]),
        ("paragraph", [(0, "one\ntwo"), (9, "three")]),
        ("line", [(0, "one"), (4, "two"), (9, "three")]),
    ],
)
def test_split(tmp_path, split, expected):
    (tmp_path / "a.txt").write_bytes(b"one\ntwo\n\n  three\n\n")
    documents, *_ = read_raw(tmp_path / "a.txt", "text", source={"split_text": split})
    assert [(document.offset, document.content.decode().strip()) for document in documents] == expected


@pytest.mark.parametrize(
    "pack",
    [bytes, gzip.compress, bz2.compress, lzma.compress, lambda data: pyarrow.compress(data, "zstd", asbytes=True)],
    ids=["plain", "gzip", "bzip2", "xz", "zstd"],
)
def test_compression_is_recognised_by_content(tmp_path, pack):
    (tmp_path / "a").write_bytes(pack(b"one\ntwo\n" * 20_000))
    assert read_raw(tmp_path / "a", "text", source={"split_text": "line"})[1].read == 40_000


@pytest.mark.parametrize(
    "pack",
    [gzip.compress, bz2.compress, lambda data: lzma.compress(data, preset=1)],
    ids=["gzip", "bzip2", "xz"],
)
def test_what_stands_before_a_cut_is_kept(tmp_path, pack):
    lines = "".join(f"line {number} {number * 7919}\n" for number in range(160_000)).encode()
    data = pack(lines)
    (tmp_path / "a").write_bytes(data[: len(data) // 2])
    documents, ledger, _ = read_raw(tmp_path / "a", "text", source={"split_text": "line"})
    assert len(documents) > 10_000
    assert ledger.failed == {"compressed_data_truncated": 1}


@pytest.mark.parametrize("split", ["file", "paragraph", "line"])
def test_records_over_the_limit_are_dropped(tmp_path, split):
    (tmp_path / "a.txt").write_bytes(b"x" * 3000 + b"\n\nshort\n")
    limits = CleaningConfig(min_characters=1, max_record_bytes=1000)
    documents, ledger = read_clean(tmp_path / "a.txt", "text", source={"split_text": split}, cleaning=limits)
    assert ledger.dropped == {"record_too_large": 1}
    assert [document.text for document in documents] == ([] if split == "file" else ["short"])


def test_jsonl_with_keys_of_its_own(tmp_path):
    lines = [{"body": LONG, "key": 7, "link": "http://a/", "title": "T"}, {"body": LONG}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    fields = {"text_field": "body", "id_field": "key", "url_field": "link"}
    documents, _ = read_clean(tmp_path / "a.jsonl", "jsonl", source=fields)
    assert [(document.id, document.url, document.title) for document in documents] == [
        ("7", "http://a/", "T"),
        ("", "", ""),
    ]
    assert documents[0].text == LONG.strip()


def test_broken_lines_are_counted_one_by_one(tmp_path):
    lines = [
        b'{"text": "good"}',
        b'{"text": "cut',
        b"[1]",
        b'{"text": 5}',
        b'{"other": "x"}',
        b'{"text": "\xff"}',
        b"[" * 100_000,
        b'{"text": "lone \\ud800 surrogate \\u0000"}',
    ]
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(lines))
    documents, ledger = read_clean(tmp_path / "a.jsonl", "jsonl")
    assert [document.text for document in documents] == ["good", "lone  surrogate"]
    assert ledger.failed == {"json_invalid": 2, "json_not_an_object": 1, "json_not_utf8": 1}
    assert ledger.dropped == {"json_text_not_a_string": 1, "json_text_missing": 1}
