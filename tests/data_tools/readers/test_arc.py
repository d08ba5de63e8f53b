"""ARC files: the documents of a WARC file of the same pages, and what damage costs."""

import bz2
import gzip

import pytest

from data_tools.config.filtering import CleaningConfig
from tests.data_tools.archives import Page, arc_head, arc_record, write_arc, write_warc
from tests.data_tools.records import LONG, page, read_clean, read_raw

PAGES = [
    Page(url="http://example.com/0", body=page(f"{LONG}0").encode()),
    Page(url="http://example.com/a b?c=1 2", body=page(f"{LONG}1").encode()),
    Page(url="http://example.com/gone", body=b"gone", status="404 Not Found"),
    Page(url="http://example.com/pdf", body=b"%PDF-1.4", content_type="application/pdf"),
    Page(url="dns:example.com", body=b"example.com. 300 IN A 192.0.2.1", status="", content_type="text/dns"),
    Page(
        url="http://example.com/de",
        body=f"<p>{LONG}Größe</p>".encode("latin-1"),
        content_type="text/html;charset=latin1",
    ),
    Page(url="http://example.com/plain", body=f"{LONG}plain".encode(), content_type="text/plain"),
]


@pytest.mark.parametrize("is_gzip", [True, False], ids=["arc.gz", "arc"])
@pytest.mark.parametrize("version", [1, 2])
def test_the_documents_are_those_of_a_warc(tmp_path, version, is_gzip):
    starts = write_arc(tmp_path / "a.arc", PAGES, version=version, is_gzip=is_gzip)
    found, ledger = read_clean(tmp_path / "a.arc", "warc")
    pages = [each for each in PAGES if each.status]
    write_warc(tmp_path / "a.warc", pages)
    expected, expected_ledger = read_clean(tmp_path / "a.warc", "warc")
    assert [(d.url.replace(" ", "%20"), d.text, d.title) for d in found] == [
        (d.url.replace(" ", "%20"), d.text, d.title) for d in expected
    ]
    assert [document.record for document in found] == [1, 2, 6, 7]
    assert [document.offset for document in found] == [starts[number] for number in (1, 2, 6, 7)]
    assert found[2].text.endswith("Größe")
    assert ledger.dropped - expected_ledger.dropped == {"content_type_not_text": 1}, "the dns record"
    assert not ledger.failed


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress], ids=["one gzip member", "bzip2"])
def test_archive_compressed_as_a_whole(tmp_path, pack):
    write_arc(tmp_path / "a.arc", PAGES, is_gzip=False)
    (tmp_path / "b.arc").write_bytes(pack((tmp_path / "a.arc").read_bytes()))
    assert read_clean(tmp_path / "b.arc", "warc")[1].kept == 4


def test_equal_input_gives_equal_documents(tmp_path):
    write_arc(tmp_path / "a.arc", PAGES)
    assert read_raw(tmp_path / "a.arc", "warc")[0] == read_raw(tmp_path / "a.arc", "warc")[0]


def test_a_page_without_http_headers_is_read(tmp_path):
    write_arc(tmp_path / "a.arc", [Page(url="http://example.com/", body=page(LONG).encode(), status="")])
    (document,), _ = read_clean(tmp_path / "a.arc", "warc")
    assert document.text == LONG.strip()


def numbered(count):
    return [Page(url=f"http://example.com/{n}", body=page(f"{LONG}{n * 7919}").encode()) for n in range(count)]


def test_a_damaged_member_costs_its_own_record(tmp_path):
    starts = write_arc(tmp_path / "a.arc", numbered(5))
    data = bytearray((tmp_path / "a.arc").read_bytes())
    middle = (starts[3] + starts[4]) // 2
    data[middle : middle + 8] = b"\xff" * 8
    (tmp_path / "a.arc").write_bytes(data)
    documents, ledger = read_clean(tmp_path / "a.arc", "warc")
    assert [document.url[-1] for document in documents] == ["0", "1", "3", "4"]
    assert ledger.failed == {"archive_corrupt": 1}
    assert [document.offset for document in documents] == [starts[n] for n in (1, 2, 4, 5)]


@pytest.mark.parametrize("cut", [5, 60, 200])
@pytest.mark.parametrize("is_gzip", [True, False])
def test_a_cut_archive_fails_in_one_record(tmp_path, cut, is_gzip):
    starts = write_arc(tmp_path / "a.arc", numbered(3), is_gzip=is_gzip)
    (tmp_path / "a.arc").write_bytes((tmp_path / "a.arc").read_bytes()[: starts[3] + cut])
    documents, ledger, _ = read_raw(tmp_path / "a.arc", "warc")
    assert len(documents) == 2
    assert ledger.failed.total() == 1


@pytest.mark.parametrize("excess", [-50, 5])
def test_a_wrong_length_costs_its_own_record_or_the_next(tmp_path, excess):
    pages = numbered(5)
    records = [arc_record(each) for each in pages]
    size = int(records[2].partition(b"\n")[0].rsplit(b" ", 1)[1])
    records[2] = arc_record(pages[2], length=size + excess)
    (tmp_path / "a.arc").write_bytes(arc_head() + b"".join(records))
    documents, ledger, _ = read_raw(tmp_path / "a.arc", "warc")
    assert {document.url[-1] for document in documents} >= {"0", "1", "4"}
    assert ledger.failed == {"archive_corrupt": 1}


def test_what_follows_the_last_member_is_told(tmp_path):
    write_arc(tmp_path / "a.arc", numbered(2))
    whole = (tmp_path / "a.arc").read_bytes()
    (tmp_path / "a.arc").write_bytes(whole + b"rubbish")
    assert read_raw(tmp_path / "a.arc", "warc")[1].failed == {"archive_trailing_garbage": 1}
    (tmp_path / "a.arc").write_bytes(whole + b"\0" * 512)
    assert not read_raw(tmp_path / "a.arc", "warc")[1].failed


def test_records_over_the_limit_are_dropped(tmp_path):
    pages = [*numbered(1), Page(url="http://example.com/large", body=b"x" * 5000), *numbered(1)]
    write_arc(tmp_path / "a.arc", pages)
    limits = CleaningConfig(min_characters=1, max_record_bytes=4000)
    documents, ledger = read_clean(tmp_path / "a.arc", "warc", cleaning=limits)
    assert len(documents) == 2
    assert ledger.dropped == {"record_type_warcinfo": 1, "record_too_large": 1}
