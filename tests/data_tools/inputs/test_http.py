"""Reading over http: connections that break, servers that are busy or know no ranges, files that change."""

import gzip
import random
import socket
import threading
import time
from email.utils import formatdate

import fsspec
import pytest

from data_tools.config.schema import DataPrepConfig, SourceConfig
from data_tools.errors import UnreadableInputError
from data_tools.inputs import http as http_stream
from data_tools.inputs.files import open_input, resolve_inputs
from data_tools.inputs.http import HttpStream
from data_tools.ledger import Ledger
from data_tools.readers.open import read_documents
from data_tools.stages.preparation import load_task
from tests.data_tools.archives import Page, write_warc
from tests.data_tools.records import LONG, page
from tests.data_tools.web_server import Served, web_server

DATA = random.Random(1).randbytes(5_000_000)


def open_stream(url, *, max_retries=3, retry_seconds=0.01, **options):
    file_system = fsspec.filesystem("http")
    return HttpStream(url, file_system=file_system, max_retries=max_retries, retry_seconds=retry_seconds, **options)


def read_all(stream, size=100_000):
    data = b""
    while piece := stream.read(size):
        data += piece
    return data


def test_one_request_reads_a_file():
    served = Served(DATA)
    with web_server(f=served) as base, open_stream(base + "f") as stream:
        assert read_all(stream) == DATA
        assert stream.seekable()
    (request,) = served.requests
    assert (request["range"], request["accept-encoding"]) == ("bytes=0-", "identity")


@pytest.mark.parametrize("condition", ['"v1"', "date", ""])
def test_a_broken_connection_is_resumed_where_it_broke(condition):
    served = Served(DATA, cuts=[1_000_000, 5, 0, 2_000_000])
    served.entity_tag = condition if condition.startswith('"') else ""
    served.modified = served.modified if condition else ""
    with web_server(f=served) as base, open_stream(base + "f") as stream:
        assert read_all(stream) == DATA
    starts = [int(request["range"][6:-1]) for request in served.requests]
    assert len(starts) == 5
    assert starts == [0, 1_000_000, 1_000_005, 1_000_005, 3_000_005], "nothing is asked for twice"
    expected = served.entity_tag or served.modified or None
    assert [request.get("if-range") for request in served.requests] == [None, *[expected] * 4]


def test_a_weak_entity_tag_is_no_condition():
    served = Served(DATA, cuts=[1_000_000], entity_tag='W/"v1"')
    with web_server(f=served) as base, open_stream(base + "f") as stream:
        assert read_all(stream) == DATA
    assert served.requests[1]["if-range"] == served.modified


@pytest.mark.parametrize("tells_size", [True, False])
def test_without_ranges_what_was_read_is_skipped(tells_size):
    served = Served(DATA, takes_ranges=False, tells_size=tells_size, cuts=[1_000_000, 400_000, 3_000_000])
    with web_server(f=served) as base, open_stream(base + "f") as stream:
        assert not stream.seekable()
        assert read_all(stream) == DATA
    assert len(served.requests) == 4


@pytest.mark.parametrize("takes_ranges", [True, False])
@pytest.mark.parametrize(
    ("changed", "has_validators"),
    [(DATA[:-1], True), (DATA[::-1], True), (DATA[:100], True), (DATA[:-1], False), (DATA[:100], False)],
    ids=["shorter", "equally long", "too short", "shorter, untold", "too short, untold"],
)
def test_a_file_that_changes_is_noticed(takes_ranges, changed, has_validators):
    served = Served(DATA, takes_ranges=takes_ranges, cuts=[1_000_000], changes_to=changed)
    if not has_validators:
        served.entity_tag = served.modified = ""
    with web_server(f=served) as base, open_stream(base + "f") as stream:
        if not has_validators:
            stream.connect()
            served.entity_tag = ""
        with pytest.raises(UnreadableInputError) as error:
            read_all(stream)
    assert error.value.reason == "file_changed"
    if has_validators and takes_ranges and len(changed) > 1_000_000:
        assert str(error.value) == (
            f'at byte 1000000 it is "v2" of {len(changed)} bytes, and was "v1" of {len(DATA)} bytes before'
        )


def test_attempts_are_bounded_and_their_pauses_double(monkeypatch):
    pauses = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    served = Served(DATA, cuts=[1_000_000, *[0] * 10])
    with web_server(f=served) as base, open_stream(base + "f", max_retries=4, retry_seconds=1.0) as stream:
        read = stream.read(1000)
        with pytest.raises(UnreadableInputError) as error:
            while piece := stream.read(100_000):
                read += piece
    assert DATA.startswith(read)
    assert error.value.reason == "connection_lost"
    assert pauses == [1.0, 2.0, 4.0, 8.0]


def test_a_connection_that_says_nothing_more_counts_as_broken(monkeypatch):
    monkeypatch.setattr(http_stream, "SILENCE_SECONDS", 1.0)
    served = Served(DATA, stalls=[1_000_000, 0])
    with web_server(f=served) as base, open_stream(base + "f") as stream:
        assert read_all(stream) == DATA
        served.goes_on.set()
    assert [request["range"] for request in served.requests] == ["bytes=0-", "bytes=1000000-", "bytes=1000000-"]


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_server_tells_when_to_come_again(monkeypatch, status):
    pauses = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    in_five_minutes = formatdate(time.time() + 300, usegmt=True)
    answers = [(status, {"Retry-After": "7"}), (status, {"Retry-After": in_five_minutes}), (status, {})]
    with web_server(f=Served(DATA, answers=answers)) as base, open_stream(base + "f", retry_seconds=1.0) as stream:
        assert read_all(stream) == DATA
    assert pauses[0] == 7.0
    assert 200 < pauses[1] <= 300
    assert pauses[2] == 4.0


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ((404, {}), "file_missing"),
        ((403, {}), "file_unreadable"),
        ((503, {"Retry-After": "86400"}), "file_unreadable"),
    ],
)
def test_what_no_other_attempt_would_change_fails_at_once(answer, reason):
    served = Served(DATA, answers=[answer])
    with web_server(f=served) as base, open_stream(base + "f") as stream, pytest.raises(UnreadableInputError) as error:
        stream.read(10)
    assert error.value.reason == reason
    assert len(served.requests) == 1


def test_nobody_listens():
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/f"
        with open_stream(url) as stream, pytest.raises(UnreadableInputError) as error:
            stream.read(10)
    assert error.value.reason == "file_unreadable"
    assert "after 4 attempts" in str(error.value)


def test_seeking_asks_for_the_place_alone():
    served = Served(DATA, cuts=[])
    with web_server(f=served) as base, open_stream(base + "f") as stream:
        assert stream.seek(-10, 2) == len(DATA) - 10
        assert read_all(stream) == DATA[-10:]
        stream.seek(3_000_000)
        assert stream.read(10) == DATA[3_000_000:3_000_010]
        stream.seek(500, 1)
        assert stream.read(10) == DATA[3_000_510:3_000_520], "a short way is read through"
    assert [request["range"] for request in served.requests] == [
        "bytes=0-",
        f"bytes={len(DATA) - 10}-",
        "bytes=3000000-",
    ]


@pytest.mark.parametrize("takes_ranges", [True, False])
def test_an_empty_file(takes_ranges):
    with web_server(f=Served(b"", takes_ranges=takes_ranges)) as base, open_stream(base + "f") as stream:
        assert stream.read(10) == b""


def read_source(base, kind, name="f", **settings):
    """Documents of a served file through the list of inputs and the readers, and the ledger."""
    source = SourceConfig(name="s", kind=kind, paths=[base + name], retry_seconds=0.01, max_retries=2, **settings)
    (file,), violations = resolve_inputs([source])
    assert not violations
    ledger = Ledger()
    config = DataPrepConfig(output_dir="", sources=[source])
    with open_input(file) as stream:
        documents = list(read_documents(file, stream=stream, ledger=ledger, config=config))
    assert ledger.read == len(documents) + ledger.dropped.total() + ledger.failed.total()
    return documents, ledger, file


@pytest.mark.parametrize("takes_ranges", [True, False])
def test_an_archive_survives_broken_connections(tmp_path, takes_ranges):
    pages = [Page(url=f"http://a/{n}", body=page(f"{LONG}{random.Random(n).random()}").encode()) for n in range(800)]
    write_warc(tmp_path / "a.warc.gz", pages)
    data = (tmp_path / "a.warc.gz").read_bytes()
    # The first answer is for the list of inputs, which reads no data.
    served = Served(data, takes_ranges=takes_ranges, cuts=[len(data), len(data) // 2, len(data) // 3])
    with web_server(f=served) as base:
        documents, ledger, file = read_source(base, "warc")
    assert (file.bytes, file.version) == (len(data), '"v1"')
    assert [document.url for document in documents] == [each.url for each in pages]
    assert not ledger.failed


def test_what_was_read_before_a_final_failure_stays(tmp_path):
    lines = "".join(f"line {number} {number * 7919}\n" for number in range(300_000)).encode()
    for data in (lines, gzip.compress(lines)):
        served = Served(data, cuts=[len(data), len(data) // 2, 0, 0, 0])
        with web_server(f=served) as base:
            documents, ledger, _ = read_source(base, "text", split_text="line")
        assert len(documents) > 20_000
        assert ledger.failed == {"connection_lost": 1}
        assert "what follows in the file is lost" in ledger.examples[0].detail


@pytest.mark.parametrize("kind", ["warc", "wikipedia", "jsonl", "parquet", "text"])
def test_a_file_that_is_gone_meanwhile_counts_as_failed(kind):
    served = Served(b"x" * 100)
    with web_server(f=served) as base:
        source = SourceConfig(name="s", kind=kind, paths=[base + "f"], retry_seconds=0.01, max_retries=2)
        (file,), _ = resolve_inputs([source])
    ledger = Ledger()
    with open_input(file) as stream:
        config = DataPrepConfig(output_dir="", sources=[source])
        assert not list(read_documents(file, stream=stream, ledger=ledger, config=config))
    assert (ledger.read, ledger.failed) == (1, {"file_unreadable": 1})


def test_a_file_that_changed_since_it_was_listed_counts_as_failed():
    served = Served(b"line\n" * 100)
    with web_server(f=served) as base:
        source = SourceConfig(name="s", kind="text", paths=[base + "f"])
        (file,), _ = resolve_inputs([source])
        served.entity_tag = '"v2"'
        ledger = Ledger()
        with open_input(file) as stream:
            config = DataPrepConfig(output_dir="", sources=[source])
            assert not list(read_documents(file, stream=stream, ledger=ledger, config=config))
    assert ledger.failed == {"file_changed": 1}


def test_addresses_that_cannot_be_read_are_refused_or_skipped():
    served = Served(DATA, answers=[(404, {}), (403, {}), (404, {})])
    with web_server(f=served) as base:
        paths = [base + "f?a=*[1]"[:1], base + "f"]
        for expected in ("no such file on the server", "cannot read the file: the server answered 403 Forbidden"):
            source = SourceConfig(name="s", kind="text", paths=[base + "f"])
            files, (violation,) = resolve_inputs([source])
            assert not files
            assert violation.message == expected
        source = SourceConfig(name="s", kind="text", paths=[paths[1]], skip_unreadable=True)
        (file,), violations = resolve_inputs([source])
    assert not violations
    assert (file.path, file.bytes, file.version) == (base + "f", None, "")


@pytest.mark.parametrize("takes_ranges", [True, False])
def test_parquet_over_http(tmp_path, takes_ranges):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq  # noqa: PLC0415

    pq.write_table(pa.table({"text": [f"{LONG}{n}" for n in range(3000)]}), tmp_path / "a", row_group_size=300)
    data = (tmp_path / "a").read_bytes()
    served = Served(data, takes_ranges=takes_ranges, cuts=[len(data), 1000, 2000])
    with web_server(f=served) as base:
        documents, ledger, _ = read_source(base, "parquet")
    assert not ledger.failed
    assert [document.record for document in documents] == list(range(3000))


def test_many_addresses_are_asked_for_together_and_once(tmp_path):
    meeting = threading.Barrier(8)
    files = {f"f{number}": Served(b"x" * number, meeting=meeting) for number in range(8)}
    with web_server(**files) as base:
        addresses = ",".join(f'"{base}{name}"' for name in reversed(files))
        task = load_task(
            [
                "data_prep=custom",
                f"data_prep.output_dir={tmp_path}",
                f"data_prep.sources=[{{name:x,kind:text,paths:[{addresses}]}}]",
            ]
        )
    assert [file.bytes for file in task.files] == list(range(7, -1, -1))
    assert [len(served.requests) for served in files.values()] == [1] * 8
