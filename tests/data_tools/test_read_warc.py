"""Web archives of every writer and with every damage: each record has its fate in the ledger."""

import bz2
import gzip
import io

import pytest
from warcio.warcwriter import WARCWriter

from data_tools.config import CleaningConfig
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
