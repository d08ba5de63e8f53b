"""Every kind of bad input through the real command, in one preparation: it ends well, tells what is lost, and keeps the
rest.

(What reading each of them costs in detail is tested beside the readers.)
"""

import bz2
import gzip
import json
import random
import re
import socket
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.data_tools.archives import Page, write_arc, write_warc
from tests.data_tools.commands import run_process
from tests.data_tools.sample_inputs import make_text, prepare_command, write_dump
from tests.data_tools.test_prepare import read_documents
from tests.data_tools.web_server import Served, web_server

NUM_GOOD = 6
MAX_RECORD_BYTES = 8 << 20
LARGE_BYTES = 200 << 20
WORKER_MEMORY_BYTES = 300 << 20
"""A process of Python with all libraries takes some 150 MiB; the large documents would add their size several times."""


@dataclass
class Case:
    """A bad input, and what must become of its records."""

    kind: str
    make: Callable[[Path, list[str]], object]
    """Writes the file at a path, with good texts in it."""
    kept: int = NUM_GOOD
    dropped: dict[str, int] = field(default_factory=dict)
    failed: dict[str, int] = field(default_factory=dict)
    notes: dict[str, int] = field(default_factory=dict)
    """Only those that this case is about."""
    damaged_record: int | None = None
    """Number of the first record that the ledger must name."""


def lines(texts: list[str]) -> list[bytes]:
    return [json.dumps({"text": text}).encode() + b"\n" for text in texts]


def page(text: str, *, head: str = "") -> bytes:
    return f"<html><head>{head}<title>T</title></head><body><main><p>{text}</p></main></body></html>".encode()


def pages_of(texts: list[str]) -> list[Page]:
    return [Page(url=f"http://example.org/{number}", body=page(text)) for number, text in enumerate(texts)]


def make_cut_gzip(path: Path, texts: list[str]) -> None:
    filler = [random.Random(number).randbytes(500).hex() for number in range(200)]
    whole, rest = gzip.compress(b"".join(lines(texts))), gzip.compress(b"".join(lines(filler)))
    path.write_bytes(whole + rest[:50])


def make_cut_bzip2(path: Path, texts: list[str]) -> None:
    path.write_bytes(bz2.compress(b"".join(lines(texts))) + bz2.compress(b"".join(lines(texts)))[:-20])


def make_corrupt_gzip(path: Path, texts: list[str]) -> None:
    bad = bytearray(gzip.compress(b"".join(lines(texts))))
    bad[20:40] = b"\xff" * 20
    path.write_bytes(gzip.compress(b"".join(lines(texts))) + bad)


def make_corrupt_member(path: Path, texts: list[str], *, write: Callable[..., list[int]] = write_warc) -> None:
    starts = write(path, pages_of([*texts[:3], "lost " * 100, *texts[3:]]))
    data = bytearray(path.read_bytes())
    middle = (starts[4] + starts[5]) // 2
    data[middle : middle + 8] = b"\xff" * 8
    path.write_bytes(data)


def make_corrupt_lines(path: Path, texts: list[str]) -> None:
    good = lines(texts)
    bad = [b'{"text": "cut\n', b'{"text": "\xff\xfe"}\n', b"[" * 100_000 + b"\n", b"\0\0\0\n", b'{"text": null}\n']
    path.write_bytes(b"".join(good[:3] + bad + good[3:]))


def make_parquet(path: Path, texts: list[str]) -> None:
    """A damaged row group between two good ones."""
    table = pa.table({"text": [*texts[:3], *(f"lost {n} " * 50 for n in range(3)), *texts[3:]]})
    pq.write_table(table, path, row_group_size=3, compression="zstd", use_dictionary=False)
    chunk = pq.ParquetFile(path).metadata.row_group(1).column(0)
    data = bytearray(path.read_bytes())
    data[chunk.data_page_offset : chunk.data_page_offset + 60] = b"\xff" * 60
    path.write_bytes(data)


def make_cut_parquet(path: Path, texts: list[str]) -> None:
    pq.write_table(pa.table({"text": texts}), path)
    path.write_bytes(path.read_bytes()[:-10])


def make_false_types(path: Path, texts: list[str]) -> None:
    bodies = [page(text) for text in texts]
    write_warc(
        path,
        [
            Page(url="http://a/0", body=bodies[0], content_type=""),
            Page(url="http://a/1", body=bodies[1], content_type="text/plain"),
            Page(url="http://a/2", body=bodies[2], content_type="application/octet-stream"),
            Page(url="http://a/3", body=texts[3].encode(), content_type="text/html"),
            Page(url="http://a/4", body=texts[4].encode(), content_type=";;charset"),
            Page(url="http://a/5", body=bodies[5], content_type="text/html; charset=no-such-charset"),
            Page(url="http://a/pdf", body=b"%PDF-1.7 \0\1\2" * 100, content_type="text/html"),
            Page(url="http://a/png", body=b"\x89PNG\r\n\x1a\n" * 100, content_type=""),
            Page(url="http://a/css", body=b"p {}" * 100, content_type="text/css"),
        ],
    )


RUSSIAN = "Съешь же ещё этих мягких французских булок, да выпей чаю. "
JAPANESE = "いろはにほへと散りぬるを、我が世誰ぞ常ならむ。有為の奥山今日越えて、"
CHINESE = "视野无限广，窗外有蓝天。微风带动窗帘，摇曳的光影在地板上跳舞。"
KOREAN = "키스의 고유조건은 입술끼리 만나야 하고 특별한 기술은 필요치 않다. "
FOREIGN = [(RUSSIAN, "koi8-r"), (RUSSIAN, "cp1251"), (JAPANESE, "shift_jis"), (CHINESE, "gb18030"), (KOREAN, "euc-kr")]


def make_false_charsets(path: Path, texts: list[str]) -> None:
    """Declared in no way, and as the Western encoding."""
    pages = [
        Page(
            url=f"http://a/{number}",
            body=page(f"{name} {text * 5} {encoding}").decode().encode(encoding),
            content_type=content_type,
        )
        for number, (text, encoding) in enumerate(FOREIGN)
        for name, content_type in (("untold", "text/html"), ("false", "text/html; charset=ISO-8859-1"))
    ]
    write_warc(path, [*pages, *pages_of(texts)])


CONTROLS = "NUL \0 escape \x1b[0m lone \ud800 pair \ud83e\udd8a other \udfff\x85 noncharacter \ufffe end"


def make_controls(path: Path, texts: list[str]) -> None:
    records = [{"text": f"{text} {CONTROLS}", "id": CONTROLS, "url": CONTROLS, "title": CONTROLS} for text in texts]
    path.write_text(
        "".join(json.dumps(record) + "\n" for record in [*records, {"url": CONTROLS}, {"text": "\0\ud800"}])
    )


def make_control_text(path: Path, texts: list[str]) -> None:
    """One paragraph each."""
    path.write_bytes("\n\n".join(" ".join(text.split()) + " \0\x1b[0m end" for text in texts).encode())


def make_control_warc(path: Path, texts: list[str]) -> None:
    write_warc(path, [Page(url=f"http://a/{n}\0\xff", body=page(text + "\0\x01 end")) for n, text in enumerate(texts)])


def make_large_line(path: Path, texts: list[str]) -> None:
    """Written as it is compressed: this process holds no 200 MB either."""
    good = lines(texts)
    with gzip.open(path, "wb", compresslevel=1) as stream:
        stream.writelines(good[:3])
        stream.write(b'{"text": "')
        for _ in range(LARGE_BYTES >> 20):
            stream.write(b"abc defg" * (1 << 17))
        stream.write(b'"}\n')
        stream.writelines(good[3:])


def make_large_page(path: Path, texts: list[str]) -> None:
    """One record of 200 MB between the others, as a gzip member of its own."""
    starts = write_warc(path, pages_of(texts))
    whole = path.read_bytes()
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n"
    record = (
        b"WARC/1.0\r\nWARC-Type: response\r\nWARC-Target-URI: http://a/large\r\n"
        b"Content-Type: application/http; msgtype=response\r\nContent-Length: %d\r\n\r\n%s"
    ) % (len(head) + LARGE_BYTES, head)
    with path.open("wb") as file:
        file.write(whole[: starts[3]])
        with gzip.GzipFile(fileobj=file, mode="wb", compresslevel=1) as stream:
            stream.write(record)
            for _ in range(LARGE_BYTES >> 20):
                stream.write(b"<p>words" * (1 << 17))
            stream.write(b"\r\n\r\n")
        file.write(whole[starts[3] :])


def make_deep(path: Path, texts: list[str]) -> None:
    deep = [f"{'<div>' * 100_000}{texts[0]}{'</div>' * 100_000}", f"{'<div><p>' * 50_000}{texts[0]}"]
    bodies = [f"<html><body>{each}</body></html>".encode() for each in deep]
    write_warc(path, [*pages_of(texts), *(Page(url=f"http://a/{n}", body=body) for n, body in enumerate(bodies))])


def make_entity_bomb(path: Path, texts: list[str]) -> None:
    write_dump(path, texts)
    entities = '<!ENTITY a "ha">' + "".join(
        f'<!ENTITY {new} "{f"&{old};" * 10}">' for old, new in zip("abcdefgh", "bcdefghi", strict=True)
    )
    xml = bz2.decompress(path.read_bytes()).replace(b"</text>", b"&i;</text>")
    path.write_bytes(f"<!DOCTYPE mediawiki [{entities}]>".encode() + xml)


def make_bomb_in_page(path: Path, texts: list[str]) -> None:
    """Entities that nothing declares, in one page."""
    write_dump(path, [*texts[:3], "lost", *texts[3:]])
    path.write_bytes(bz2.decompress(path.read_bytes()).replace(b">lost<", b">&i;<"))


def make_wrong_digests(path: Path, texts: list[str]) -> None:
    write_warc(path, pages_of(texts), is_gzip=False)
    data = path.read_bytes()
    path.write_bytes(re.sub(rb"(?<=WARC-Payload-Digest: sha1:)\w{32}", b"A" * 32, data, count=2))


CASES = {
    "cut.jsonl.gz": Case("jsonl", make_cut_gzip, failed={"compressed_data_truncated": 1}, damaged_record=NUM_GOOD),
    "cut.jsonl.bz2": Case("jsonl", make_cut_bzip2, failed={"compressed_data_truncated": 1}, damaged_record=NUM_GOOD),
    "corrupt.jsonl.gz": Case("jsonl", make_corrupt_gzip, failed={"compressed_data_corrupt": 1}, damaged_record=6),
    "corrupt.jsonl": Case(
        "jsonl",
        make_corrupt_lines,
        failed={"json_invalid": 3, "json_not_utf8": 1},
        dropped={"json_text_not_a_string": 1},
        damaged_record=3,
    ),
    "corrupt.warc.gz": Case(
        "warc",
        make_corrupt_member,
        failed={"archive_corrupt": 1},
        dropped={"record_type_warcinfo": 1},
        damaged_record=4,
    ),
    "corrupt.arc.gz": Case(
        "warc",
        lambda path, texts: make_corrupt_member(path, texts, write=write_arc),
        failed={"archive_corrupt": 1},
        dropped={"record_type_warcinfo": 1},
        damaged_record=4,
    ),
    "corrupt.parquet": Case("parquet", make_parquet, failed={"parquet_corrupt": 3}, damaged_record=3),
    "cut.parquet": Case("parquet", make_cut_parquet, kept=0, failed={"parquet_corrupt": 1}, damaged_record=0),
    "types.warc.gz": Case(
        "warc",
        make_false_types,
        dropped={"record_type_warcinfo": 1, "content_not_text": 2, "content_type_not_text": 1},
        notes={"content_type_wrong": 2, "content_type_missing": 4},
        damaged_record=0,
    ),
    "charsets.warc.gz": Case(
        "warc",
        make_false_charsets,
        kept=NUM_GOOD + 2 * len(FOREIGN),
        dropped={"record_type_warcinfo": 1},
        notes={"charset_wrong": len(FOREIGN)},
    ),
    "controls.jsonl": Case(
        "jsonl", make_controls, dropped={"json_text_missing": 1, "no_text": 1}, damaged_record=NUM_GOOD
    ),
    "controls.txt": Case("text", make_control_text),
    "controls.warc.gz": Case("warc", make_control_warc, dropped={"record_type_warcinfo": 1}),
    "large.jsonl.gz": Case("jsonl", make_large_line, dropped={"record_too_large": 1}, damaged_record=3),
    "large.warc.gz": Case(
        "warc", make_large_page, dropped={"record_type_warcinfo": 1, "record_too_large": 1}, damaged_record=0
    ),
    "deep.warc.gz": Case("warc", make_deep, dropped={"record_type_warcinfo": 1, "duplicate": 2}),
    "bomb.xml": Case("wikipedia", make_entity_bomb, kept=0, failed={"xml_doctype_refused": 1}, damaged_record=0),
    "undeclared.xml": Case("wikipedia", make_bomb_in_page, failed={"xml_invalid": 1}, damaged_record=3),
    "digests.warc": Case(
        "warc", make_wrong_digests, dropped={"record_type_warcinfo": 1}, notes={"digest_wrong": 2}
    ),
    "empty.jsonl": Case("jsonl", lambda path, _: path.write_bytes(b""), kept=0),
    "empty.txt.gz": Case("text", lambda path, _: path.write_bytes(gzip.compress(b"")), kept=0),
    "empty.warc.gz": Case("warc", lambda path, _: path.write_bytes(b""), kept=0),
    "empty.parquet": Case("parquet", lambda path, _: path.write_bytes(b""), kept=0, failed={"parquet_corrupt": 1}),
    "empty.xml": Case("wikipedia", lambda path, _: path.write_bytes(b""), kept=0, failed={"xml_truncated": 1}),
    "missing.jsonl": Case("jsonl", lambda *_: None, kept=0, failed={"file_missing": 1}, damaged_record=0),
    # Opening it works; reading its first byte is an I/O error.
    "device.txt": Case(
        "text",
        lambda path, _: path.symlink_to("/proc/self/mem"),
        kept=0,
        failed={"file_unreadable": 1},
        damaged_record=0,
    ),
    "broken.jsonl": Case("jsonl", lambda *_: None, kept=3, failed={"connection_lost": 1}, damaged_record=3),
    "refused.jsonl": Case("jsonl", lambda *_: None, kept=0, failed={"file_unreadable": 1}, damaged_record=0),
    "good.jsonl": Case("jsonl", lambda path, texts: path.write_bytes(b"".join(lines(texts)))),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The finished preparation."""

    output: Path
    returncode: int
    stderr: str
    worker_memory_bytes: int
    """Of the process that took most."""
    ledger: dict[str, dict]
    """Of each file, by the case's name."""
    totals: dict
    good_texts: dict[str, list[str]]


MEASURE = """\
import resource, subprocess, sys
code = subprocess.call(sys.argv[1:])
print("peak", resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024, file=sys.stderr)
sys.exit(code)
"""


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outcome]:
    inputs, output = tmp_path_factory.mktemp("bad"), tmp_path_factory.mktemp("prepared") / "data"
    texts = {
        name: [make_text(1000 * (number + 1) + seed) for seed in range(NUM_GOOD)] for number, name in enumerate(CASES)
    }
    for name, case in CASES.items():
        case.make(inputs / name, texts[name])
    body = lines(texts["broken.jsonl"])
    served = Served(b"".join(body), breaks_at=len(b"".join(body[:3])) + 5)
    with socket.socket() as silent, web_server(**{"broken.jsonl": served}) as base:
        silent.bind(("127.0.0.1", 0))  # and nobody listens
        refusing = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        paths = {name: str(inputs / name) for name in CASES}
        paths |= {"broken.jsonl": f"{base}broken.jsonl", "refused.jsonl": f"{refusing}refused.jsonl"}
        sources = [
            f'{{name:s{number},kind:{case.kind},paths:["{paths[name]}"],split_text:paragraph,'
            "skip_unreadable:true,max_retries:1,retry_seconds:0.05}"
            for number, (name, case) in enumerate(CASES.items())
        ]
        command = prepare_command(
            f"data_prep.sources=[{','.join(sources)}]",
            f"data_prep.output_dir={output}",
            f"data_prep.cleaning.max_record_bytes={MAX_RECORD_BYTES}",
            "data_prep.cleaning.min_characters=50",
            "data_prep.split.validation_fraction=0.1",
            "data_prep.tokenizer.vocab_size=768",
            "data_prep.tokenizer.num_threads=1",
            "data_prep.num_workers=2",
        )
        done = run_process(sys.executable, "-c", MEASURE, *command)
    assert done.returncode == 0, done.stderr
    ledger = json.loads((output / "ledger.json").read_text())
    yield Outcome(
        output=output,
        returncode=done.returncode,
        stderr=done.stderr,
        worker_memory_bytes=int(done.stderr.rpartition("peak ")[2]),
        ledger=dict(zip(CASES, ledger["files"], strict=True)),
        totals=ledger["totals"],
        good_texts=texts,
    )


@pytest.mark.parametrize("name", CASES)
def test_each_record_has_the_fate_it_must_have(outcome: Outcome, name: str) -> None:
    case, entry = CASES[name], outcome.ledger[name]
    assert entry["path"].endswith(name)
    assert (entry["kept"], entry["dropped"], entry["failed"]) == (case.kept, case.dropped, case.failed), entry[
        "examples"
    ]
    assert entry["read"] == case.kept + sum(case.dropped.values()) + sum(case.failed.values())
    assert {note: entry["notes"].get(note) for note in case.notes} == case.notes
    rows = [row for row in pq.read_table(outcome.output / "ledger.parquet").to_pylist() if row["file"] == entry["path"]]
    assert [row["record"] for row in rows] == list(range(entry["read"]))
    lost = [row for row in rows if row["fate"] in ("dropped", "failed")]
    assert Counter(row["reason"] for row in lost) == Counter(case.dropped) + Counter(case.failed)
    if case.damaged_record is not None:
        assert case.damaged_record in {row["record"] for row in lost}
        assert {example["record"] for example in entry["examples"]} >= {case.damaged_record}


def test_totals_add_up_and_the_summary_warns(outcome: Outcome) -> None:
    totals = outcome.totals
    assert totals["read"] == totals["kept"] + sum(totals["dropped"].values()) + sum(totals["failed"].values())
    assert totals["kept"] == sum(case.kept for case in CASES.values())
    num_failed = sum(sum(case.failed.values()) for case in CASES.values())
    assert f"warning: {num_failed} records could not be read" in outcome.stderr
    assert "Traceback" not in outcome.stderr


def test_good_records_are_kept_and_are_clean_text(outcome: Outcome) -> None:
    texts = [text for split in ("train", "validation") for text, _ in read_documents(outcome.output, split)]
    joined = "\x00".join(" ".join(text.split()) for text in texts)
    for name, good in outcome.good_texts.items():
        expected = {"bomb.xml": 0, "broken.jsonl": 3}.get(name, NUM_GOOD if CASES[name].kept else 0)
        found = sum(" ".join(text.split()) in joined for text in good)
        assert found == expected, name
    for text, encoding in FOREIGN:
        for how in ("untold", "false"):
            assert f"{how} {' '.join((text * 5).split())} {encoding}" in joined, (how, encoding)
    assert not re.search("[\x01-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe]", joined)
    assert "pair 🦊" in joined
    rows = pq.read_table(outcome.output / "train.documents.parquet").to_pylist()
    assert any(row["title"].startswith("NUL escape") for row in rows)


def test_memory_is_bounded_by_the_limit_of_a_record(outcome: Outcome) -> None:
    assert outcome.worker_memory_bytes < WORKER_MEMORY_BYTES
