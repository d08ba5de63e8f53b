"""Web archives of every writer and with every damage: each record has its fate in the ledger."""

import base64
import bz2
import gzip
import hashlib
import io
import re

import pytest
from warcio.warcwriter import WARCWriter

from data_tools.config.filtering import CleaningConfig
from tests.data_tools.records import LONG, http_record, page, read_clean, read_raw


def write_archive(path, bodies, *, is_gzip=True):
    """Responses, one for each body; returns where each begins."""
    starts = []
    with path.open("wb") as file:
        writer = WARCWriter(file, gzip=is_gzip)
        for number, body in enumerate(bodies):
            starts.append(file.tell())
            http_record(writer, body, url=f"http://example.com/{number}")
    return starts


@pytest.mark.parametrize("is_gzip", [True, False])
def test_records_have_place_address_and_text(tmp_path, is_gzip):
    starts = write_archive(tmp_path / "a.warc", [page(LONG + str(i)).encode() for i in range(3)], is_gzip=is_gzip)
    documents, ledger = read_clean(tmp_path / "a.warc", "warc")
    assert [document.offset for document in documents] == starts
    assert [document.url for document in documents] == [f"http://example.com/{i}" for i in range(3)]
    assert [document.text[-1] for document in documents] == ["0", "1", "2"]
    assert all(document.id.startswith("urn:uuid:") and document.title == "Title" for document in documents)
    assert (ledger.read, ledger.kept) == (3, 3)


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress], ids=["one gzip member", "bzip2"])
def test_archive_compressed_as_a_whole(tmp_path, pack):
    write_archive(tmp_path / "a.warc", [page(LONG).encode()] * 3, is_gzip=False)
    (tmp_path / "b.warc").write_bytes(pack((tmp_path / "a.warc").read_bytes()))
    assert read_clean(tmp_path / "b.warc", "warc")[1].kept == 3


def test_what_is_no_page_is_dropped_with_its_reason(tmp_path):
    buffer = io.BytesIO()
    writer = WARCWriter(buffer, gzip=True)
    writer.write_record(writer.create_warcinfo_record("a.warc.gz", {"software": "test"}))
    http_record(writer, page(LONG).encode())
    http_record(writer, b"gone", status="404 Not Found")
    http_record(writer, b"%PDF-1.4", Content_Type="application/pdf")
    http_record(writer, b"%PDF-1.4 pretends", Content_Type="text/html")
    http_record(writer, b"x" * 5000)
    (tmp_path / "a.warc.gz").write_bytes(buffer.getvalue())
    limits = CleaningConfig(min_characters=1, max_record_bytes=4000)
    documents, ledger = read_clean(tmp_path / "a.warc.gz", "warc", cleaning=limits)
    assert len(documents) == 1
    assert ledger.dropped == {
        "record_type_warcinfo": 1,
        "http_status_404": 1,
        "content_type_not_text": 1,
        "content_not_text": 1,
        "record_too_large": 1,
    }


def test_wet_with_bare_line_feeds(tmp_path):
    record = "WARC/1.0\nWARC-Type: conversion\nWARC-Target-URI: http://a/\nContent-Type: text/plain\nContent-Length: "
    body = "Größe und Länge: 5 km"
    (tmp_path / "a.wet").write_text(f"{record}{len(body.encode())}\n\n{body}\n\n" * 2)
    documents, _ = read_clean(tmp_path / "a.wet", "warc")
    assert [(document.url, document.text) for document in documents] == [("http://a/", body)] * 2


def test_a_damaged_member_costs_its_own_record(tmp_path):
    path = tmp_path / "a.warc.gz"
    starts = write_archive(path, [page(f"{LONG}{i} {LONG}").encode() for i in range(5)])
    data = bytearray(path.read_bytes())
    middle = (starts[2] + starts[3]) // 2
    data[middle : middle + 8] = b"\xff" * 8
    path.write_bytes(data)
    documents, ledger = read_clean(path, "warc")
    assert [document.url[-1] for document in documents] == ["0", "1", "3", "4"]
    assert ledger.failed.total() == 1


@pytest.mark.parametrize("cut", [5, 60, 300])
def test_a_cut_archive_fails_in_one_record(tmp_path, cut):
    path = tmp_path / "a.warc.gz"
    starts = write_archive(path, [page(f"{LONG}{i}").encode() for i in range(3)])
    path.write_bytes(path.read_bytes()[: starts[2] + cut])
    documents, ledger = read_raw(path, "warc")[:2]
    assert len(documents) == 2
    assert ledger.failed.total() == 1


def test_a_file_that_is_no_archive_is_counted(tmp_path):
    (tmp_path / "a.warc").write_bytes(b"\x00\x01 no archive at all" * 100)
    (tmp_path / "empty.warc").write_bytes(b"")
    assert read_clean(tmp_path / "a.warc", "warc")[1].failed.total() == 1
    assert read_clean(tmp_path / "empty.warc", "warc")[1].read == 0


def write_with_digests(path, *changes):
    """A record for each change of one byte in the digest or in the content that stays as it was."""
    buffer = io.BytesIO()
    writer = WARCWriter(buffer, gzip=False)
    records = b""
    for number, change in enumerate(changes):
        http_record(writer, page(f"{LONG}{number}").encode(), url=f"http://example.com/{number}")
        records += change(buffer.getvalue())
        buffer.seek(0)
        buffer.truncate()
    path.write_bytes(records)


def set_digest(value):
    return lambda record: re.sub(rb"(?<=WARC-Payload-Digest: )\S+", value, record)


def digest_of(number, name):
    return hashlib.new(name, page(f"{LONG}{number}").encode())


def test_digests_are_compared(tmp_path):
    path = tmp_path / "a.warc"
    write_with_digests(
        path,
        lambda record: record,
        lambda record: record.replace(b"quick brown", b"quick green"),
        set_digest(b"sha1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"),
        set_digest(b"sha256:" + digest_of(3, "sha256").hexdigest().encode()),
        set_digest(b"SHA-1:" + base64.b32encode(digest_of(4, "sha1").digest()).lower()),
        set_digest(b"md5:" + digest_of(5, "md5").hexdigest().upper().encode()),
        set_digest(b"tiger:0123"),
        lambda record: re.sub(rb"WARC-Payload-Digest: \S+\r\n", b"", record),
    )
    documents, ledger, _ = read_raw(path, "warc")
    assert len(documents) == 8
    assert ledger.notes == {"digest_wrong": 2}
    documents, ledger, _ = read_raw(path, "warc", source={"wrong_digests": "ignore"})
    assert (len(documents), ledger.notes) == (8, {})
    documents, ledger, _ = read_raw(path, "warc", source={"wrong_digests": "fail"})
    assert [document.record for document in documents] == [0, 3, 4, 5, 6, 7]
    assert ledger.failed == {"digest_wrong": 2}
    assert [(example.record, example.name) for example in ledger.examples] == [
        (1, "http://example.com/1"),
        (2, "http://example.com/2"),
    ]


def test_the_digest_of_a_text_record_is_that_of_its_block(tmp_path):
    text = LONG.encode()
    head = "WARC/1.0\r\nWARC-Type: conversion\r\nWARC-Target-URI: http://a/\r\nContent-Type: text/plain\r\n"
    digests = [hashlib.sha1(text).digest(), bytes(20)]
    (tmp_path / "a.wet").write_bytes(
        b"".join(
            f"{head}WARC-Block-Digest: sha1:{base64.b32encode(digest).decode()}\r\n"
            f"Content-Length: {len(text)}\r\n\r\n".encode()
            + text
            + b"\r\n\r\n"
            for digest in digests
        )
    )
    assert read_raw(tmp_path / "a.wet", "warc")[1].notes == {"digest_wrong": 1}


def test_addresses_of_any_bytes_end_in_the_ledger(tmp_path):
    record = b"WARC/1.0\r\nWARC-Type: response\r\nWARC-Target-URI: http://a/\xff\xed\xa0\x80\0\r\n"
    (tmp_path / "a.warc").write_bytes(record + b"Content-Length: 0\r\n\r\n\r\n\r\n")
    _, ledger, _ = read_raw(tmp_path / "a.warc", "warc")
    assert ledger.failed == {"http_header_invalid": 1}
    (example,) = ledger.examples
    assert example.name.encode().startswith(b"http://a/")


def test_headers_of_a_server_in_a_record_of_its_page_are_no_text(tmp_path):
    bodies = {
        "page": b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=gbk\r\nContent-Encoding: gzip\r\n\r\n"
        + gzip.compress(page(f"\u6c49 {LONG}").encode("gbk")),
        "lines": b"HTTP/1.0 200 OK\nContent-Type: text/plain\n\n" + LONG.encode(),
        "bare": page(LONG).encode(),
        "gone": b"HTTP/1.1 404 Not Found\r\nContent-Type: text/html\r\n\r\nnothing",
        "picture": b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\n\r\n" + LONG.encode(),
        "cut": b"HTTP/1.1 200 OK\r\nContent-Type: text/html",
    }
    with (tmp_path / "a.warc").open("wb") as file:
        for name, body in bodies.items():
            head = f"WARC/1.0\r\nWARC-Type: response\r\nWARC-Target-URI: http://a/{name}\r\nContent-Type: text/html\r\n"
            head += f"WARC-Block-Digest: sha1:{base64.b32encode(hashlib.sha1(body).digest()).decode()}\r\n"
            file.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body + b"\r\n\r\n")
    documents, ledger = read_clean(tmp_path / "a.warc", "warc")
    assert [document.text for document in documents] == [f"\u6c49 {LONG.strip()}", LONG.strip(), LONG.strip()]
    assert ledger.dropped == {"http_status_404": 1, "content_type_not_text": 1}
    assert ledger.failed == {"http_header_invalid": 1}
    assert not ledger.notes["digest_wrong"]
