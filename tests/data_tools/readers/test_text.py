"""Text and JSONL files: what a document is, and what becomes of broken ones."""

import bz2
import gzip
import json
import lzma

import pyarrow
import pyarrow.parquet as pq
import pytest

from data_tools.config.filtering import CleaningConfig, LineConfig
from data_tools.config.rules import validate
from data_tools.config.schema import DataPrepConfig, SourceConfig
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


CODE = "    return x\n\n\n\ndef g():\n\treturn 1   \n\u1112\u1161\u11ab \u212b soft\u00adhyphen\n"


@pytest.mark.parametrize(
    ("name", "kind", "setting", "is_kept"),
    [
        ("a.py", "text", None, True),
        ("a.py.gz", "text", None, True),
        ("a.py", "text", False, False),
        ("a.txt", "text", None, False),
        ("a.txt", "text", True, True),
        ("a.jsonl", "jsonl", None, False),
        ("a.jsonl", "jsonl", True, True),
        ("a.parquet", "parquet", None, False),
        ("a.parquet", "parquet", True, True),
    ],
)
def test_whitespace_of_code_is_kept(tmp_path, name, kind, setting, is_kept):
    path = tmp_path / name
    if kind == "parquet":
        pq.write_table(pyarrow.table({"text": [CODE]}), path)
    else:
        path.write_text(json.dumps({"text": CODE}) if kind == "jsonl" else CODE)
    lines = LineConfig(drop_repeated=True, min_repeated_characters=1000)
    (document,), _ = read_clean(path, kind, source={"keep_whitespace": setting}, lines=lines)
    expected = CODE if is_kept else "return x\n\ndef g():\n\treturn 1\n\ud55c \u00c5 softhyphen"
    assert document.text == expected


def test_with_whitespace_kept_only_what_no_shard_holds_goes(tmp_path):
    text = "a\x00\x1b[0m\ud83d\ufffe\r\n\r\tb\f\n \n"
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"text": each}) for each in (text, " \n\n \t")))
    (document,), ledger = read_clean(tmp_path / "a.jsonl", "jsonl", source={"keep_whitespace": True})
    assert document.text == "a[0m\n\n\tb\f\n \n"
    assert ledger.dropped == {"no_text": 1}


def test_line_ends_are_no_part_of_lines_and_paragraphs(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"  one\r\n  two \r\n\r\n  three\n")
    for split, expected in (("line", ["  one", "  two ", "  three"]), ("paragraph", ["  one\n  two ", "  three"])):
        settings = {"split_text": split, "keep_whitespace": True}
        documents, _ = read_clean(tmp_path / "a.txt", "text", source=settings)
        assert [document.text for document in documents] == expected


def test_whitespace_cannot_be_kept_of_mark_up():
    source = SourceConfig(name="s", kind="warc", paths=["a"], keep_whitespace=True)
    found = validate(DataPrepConfig(output_dir="o", sources=[source]))
    assert [violation.path for violation in found] == ["data_prep.sources[0].keep_whitespace"]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "utf-8-sig"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_byte_order_marks_tell_the_encoding(tmp_path, encoding, end):
    texts = [f"{LONG}Nr. {number} 敏捷的狐狸" for number in range(2)]
    (tmp_path / "a.jsonl").write_bytes("".join(f'{{"text": "{text}"}}{end}' for text in texts).encode(encoding))
    (tmp_path / "a.txt").write_bytes(end.join(texts).encode(encoding))
    for name, kind, source in (("a.jsonl", "jsonl", {}), ("a.txt", "text", {"split_text": "line"})):
        documents, ledger = read_clean(tmp_path / name, kind, source=source)
        assert [document.text for document in documents] == texts
        assert not ledger.failed and not ledger.dropped


def test_fields_within_objects(tmp_path):
    records = [
        {"content": {"text": LONG, "id": 7}, "meta": {"url": "http://a/"}},
        {"content.text": "first", "content": {"text": "second"}},
        {"content": "no object"},
        {"content": {"text": ["one", "two"]}},
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, records)))
    fields = {"text_field": "content.text", "id_field": "content.id", "url_field": "meta.url"}
    documents, ledger = read_clean(tmp_path / "a.jsonl", "jsonl", source=fields)
    assert [document.text for document in documents] == [LONG.strip(), "first", "one\ntwo"]
    assert (documents[0].id, documents[0].url) == ("7", "http://a/")
    assert ledger.dropped == {"json_text_missing": 1}


def test_keys_that_there_are_are_told(tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps({"content": {"text": "x", "lang": "en"}, "meta": 1}))
    _, ledger = read_clean(tmp_path / "a.jsonl", "jsonl")
    assert ledger.examples[0].detail == "no key text; there are content.text, content.lang, meta"


def test_web_pages_are_read_as_such(tmp_path):
    body = (
        "<html><head><meta charset=gbk><title>T</title></head><body><nav><a href=/>Home</a></nav><p>汉字 {}</p></body>"
    )
    for number, name in enumerate(("a.html", "b.HTM", "c.xhtml.gz", "d.txt")):
        content = body.format(LONG).encode("gbk")
        (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
        (document,), _ = read_clean(tmp_path / name, "text")
        if number < 3:
            assert (document.text, document.title) == (f"汉字 {LONG.strip()}", "T")
        else:
            assert document.text.startswith("<html>")
