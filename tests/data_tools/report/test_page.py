"""The report of a preparation: its numbers are those of the ledger, and records stay text whatever they hold."""

import json
import shutil
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import lxml.html
import pyarrow.parquet as pq
import pytest

from data_tools.report.page import render_report, write_report
from data_tools.report.tables import MAX_TOKENS, NUM_SAMPLES, read_samples
from data_tools.work.progress import StageTiming, read_timings, write_timings
from tests.data_tools.commands import run_command
from tests.data_tools.conftest import Prepared
from tests.data_tools.sample_inputs import make_text, run_prepare, sources_override, write_jsonl
from trireme.errors import ConfigError
from trireme.progress import format_duration

HOSTILE = '"><script>alert("x")</script>'


@pytest.fixture(scope="module")
def output(prepared: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the shared preparation with its report."""
    copy = tmp_path_factory.mktemp("report") / "data"
    shutil.copytree(prepared.output, copy)
    (copy / "timings.json").unlink(missing_ok=True)
    write_report(copy)
    return copy


@pytest.fixture(scope="module")
def choosy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A preparation with languages, copies of both kinds, and records that try to be mark-up."""
    inputs = tmp_path_factory.mktemp("inputs")
    texts = [make_text(seed, num_sentences=30) for seed in range(40)]
    records: list[dict[str, object] | str] = [
        {"text": text, "url": f"https://example.org/{number}"} for number, text in enumerate(texts)
    ]
    records += [{"text": texts[3], "url": "https://example.org/copy"}] * 3
    records += [{"text": f"{texts[5]} And {number}.", "url": "https://example.org/near"} for number in range(2)]
    records += [{"text": "short", "url": "javascript:alert(1)"}, {"text": "short", "title": HOSTILE}]
    output = tmp_path_factory.mktemp("choosy") / "data"
    done = run_prepare(
        sources_override(("jsonl", [write_jsonl(inputs / "records.jsonl", records)])),
        f"data_prep.output_dir={output}",
        "data_prep.language.identify=true",
        "data_prep.split.validation_fraction=0.2",
        "data_prep.near_duplicates.is_enabled=true",
        "data_prep.tokenizer.vocab_size=512",
        "data_prep.tokenizer.num_threads=1",
        "data_prep.num_workers=1",
    )
    assert done.returncode == 0, done.stderr
    return output


def read_json(output: Path, name: str) -> Any:
    return json.loads((output / name).read_text(encoding="utf-8"))


def parse(text: str) -> lxml.html.HtmlElement:
    return lxml.html.document_fromstring(text)


def read_rows(page: lxml.html.HtmlElement, table: str) -> list[tuple[str, list[int]]]:
    """Name and numbers of every row of a table."""
    return [
        (row.xpath("string(th)").strip(), [int(data.get("value")) for data in row.xpath(".//data")])
        for row in page.xpath(f"//table[@id='table-{table}']/tbody/tr")
    ]


def check_numbers(page: lxml.html.HtmlElement, output: Path) -> None:
    """Compare every table of the page with the files that it is made of."""
    ledger, stats = read_json(output, "ledger.json"), read_json(output, "stats.json")
    totals, kept = ledger["totals"], {split: stats[split]["num_documents"] for split in ("train", "validation")}
    num_lost = [sum(totals[fate].values()) for fate in ("dropped", "failed")]
    assert [numbers for _, numbers in read_rows(page, "records")] == [
        [number] for number in (*kept.values(), *num_lost, totals["read"])
    ]
    reasons = {
        row.get("id"): int(row.xpath("summary//data/@value")[0])
        for row in page.xpath("//details[starts-with(@id, 'reason-')]")
    }
    assert reasons == {
        f"reason-{fate}-{name}": count for fate in ("dropped", "failed") for name, count in totals[fate].items()
    }
    expected = sorted(
        (
            [file["read"], file["kept"], sum(file["dropped"].values()), sum(file["failed"].values())]
            for file in ledger["files"]
        ),
        key=lambda numbers: -numbers[2] - numbers[3],
    )
    assert [numbers for _, numbers in read_rows(page, "File")] == expected
    sources = read_rows(page, "Source")
    assert [sum(numbers[place] for _, numbers in sources) for place in range(5)] == [
        totals["read"],
        totals["kept"],
        *num_lost,
        stats["train"]["num_tokens"] + stats["validation"]["num_tokens"],
    ]
    tokens = zip(*(numbers for _, numbers in read_rows(page, "tokens")), strict=True)
    assert [sum(numbers) for numbers in tokens] == [number for number in kept.values() if number]
    for split in kept:
        for what in ("documents", "tokens"):
            assert page.xpath(f"//*[@id='{split}-{what}']/data/@value") == [str(stats[split][f"num_{what}"])]


def test_the_numbers_are_those_of_the_ledger(output: Path) -> None:
    text = (output / "report.html").read_text(encoding="utf-8")
    page = parse(text)
    check_numbers(page, output)
    assert read_json(output, "preparation.json")["files"].keys() == {name for name, _ in read_rows(page, "output")}, (
        "the output is listed, and the report is no part of it"
    )
    assert "1 record could not be read" in text
    assert "Languages were not identified" in text
    assert "no timings.json" in text


def test_a_preparation_ends_with_its_report(prepared: Prepared) -> None:
    text = (prepared.output / "report.html").read_text(encoding="utf-8")
    assert text == render_report(prepared.output)
    assert f"report (open in a browser): {prepared.output / 'report.html'}" in prepared.stdout
    timings = read_timings(prepared.output)
    assert [timing.title for timing in timings] == ["read", "decide", "train_tokenizer", "tokenize", "assemble"]
    stages = parse(text).xpath("//table[@id='table-stages']/tbody/tr")
    assert [stage.xpath("string(td[2])") for stage in stages] == [format_duration(timing.seconds) for timing in timings]
    assert timings[3].amount == 131, "the duplicate too goes through the last stage"
    for number, timing in enumerate(timings, start=1):
        assert f"{number}/5 {timing.title}: " in prepared.stderr


def test_it_needs_nothing_but_itself(output: Path) -> None:
    page = parse((output / "report.html").read_text(encoding="utf-8"))
    assert page.xpath("//script") == []
    assert page.xpath("//@src") == []
    assert page.xpath("//link/@href") == ["data:,"]
    assert page.xpath("//*[@role='img'][not(@aria-label) and not(@aria-labelledby)]") == []
    ids = page.xpath("//@id")
    assert len(ids) == len(set(ids))
    for reference in [*page.xpath("//@aria-labelledby"), *(link[1:] for link in page.xpath("//nav//@href"))]:
        assert reference in ids


def test_examples_name_the_records_of_the_ledger(output: Path) -> None:
    ledger = read_json(output, "ledger.json")
    page = parse((output / "report.html").read_text(encoding="utf-8"))
    for file in ledger["files"]:
        for example in file["examples"]:
            shown = page.xpath(f"string(//details[contains(@id, '-{example['reason']}')]/ul)")
            assert f"record {example['record']} of {Path(file['path']).name}" in shown
            assert example["name"] in shown
            assert example["detail"] in shown


def test_languages_and_copies(choosy: Path) -> None:
    page = parse(render_report(choosy))
    check_numbers(page, choosy)
    rows = pq.read_table(choosy / "ledger.parquet").to_pylist()
    languages = read_rows(page, "Language")
    assert sum(numbers[0] for _, numbers in languages) == len(rows)
    for split, place in (("train", 1), ("validation", 2)):
        table = pq.read_table(choosy / f"{split}.documents.parquet", columns=["language"])
        kept = Counter(table.column(0).to_pylist())
        assert {name: numbers[place] for name, numbers in languages if numbers[place]} == kept
    dropped = Counter(row["language"] or "not identified" for row in rows if row["fate"] == "dropped")
    assert {name: numbers[3] for name, numbers in languages if numbers[3]} == dropped
    assert dropped["not identified"] == 2, "those that were too short"
    assert dropped.total() == 7
    stats = read_json(choosy, "stats.json")
    num_tokens = sum(stats[split]["num_tokens"] for split in ("train", "validation"))
    assert sum(numbers[0] for _, numbers in read_rows(page, "tokenizer")) == num_tokens
    characters = zip(*(numbers for _, numbers in read_rows(page, "characters")), strict=True)
    assert [sum(numbers) for numbers in characters] == [
        stats[split]["num_documents"] for split in ("train", "validation")
    ]
    assert read_rows(page, "copies-1") == [("2", [0]), ("3–4", [1])], "three copies of one record"
    assert read_rows(page, "copies-2") == [("2", [0]), ("3–4", [1])], "two that are almost like another"
    assert "4 records; kept: https://example.org/3" in page.xpath("string(//section[@aria-labelledby='copies'])")


def test_records_stay_text_whatever_they_hold(choosy: Path) -> None:
    text = render_report(choosy)
    page = parse(text)
    assert page.xpath("//script") == []
    assert HOSTILE in page.xpath("string(//*[@id='reason-dropped-too_short'])")
    assert "javascript:alert(1)" in text
    assert {link.partition(":")[0] for link in page.xpath("//main//a/@href")} == {"https"}


def test_documents_are_shown_as_they_are_in_the_shard(choosy: Path) -> None:
    page = parse(render_report(choosy))
    samples = page.xpath("//details[@class='sample']")
    assert len(samples) == NUM_SAMPLES
    texts = {make_text(seed, num_sentences=30) for seed in range(40)}
    for sample in samples:
        shown = sample.xpath("string(p[@class='text'])")
        is_cut = shown.endswith(" …")
        assert any(text.startswith(shown.removesuffix(" …")) for text in texts)
        assert is_cut == (int(sample.xpath(".//data/@value")[0]) > MAX_TOKENS)
        assert sample.xpath("p/a/@href")[0].startswith("https://example.org/")


def test_without_shard_or_tokenizer_there_are_no_documents(choosy: Path, tmp_path: Path) -> None:
    for name in ("tokenizer.model", "train.idx", "train.documents.parquet"):
        copy = tmp_path / name
        shutil.copytree(choosy, copy)
        (copy / name).unlink()
        assert read_samples(copy) == []
        assert parse(render_report(copy)).xpath("//*[@id='samples']") == []


def test_times_of_the_stages_are_shown_where_they_are_known(output: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(output, copy)
    timings = [
        StageTiming(title="read", seconds=2.0, amount=3 * 2**20, unit="bytes"),
        StageTiming(title="tokenize", seconds=70.0, amount=140, unit="documents", is_whole=False),
        StageTiming(title="assemble", seconds=1.0, amount=1, unit="documents", num_parts=3),
    ]
    write_timings(copy, timings)
    page = parse(render_report(copy))
    num_read = read_json(copy, "ledger.json")["totals"]["read"]
    read, tokenize, assemble = page.xpath("//table[@id='table-stages']/tbody/tr")
    assert [cell.xpath("string()") for cell in read.xpath("td")[1:]] == [
        "2.0 s",
        f"{num_read} records3.00 MiB",
        f"{num_read / 2:g} records/s1.50 MiB/s",
    ]
    assert [cell.xpath("string()") for cell in tokenize.xpath("td")[1:]] == ["1:10", "140 documents", "2 documents/s"]
    assert "without the work of an earlier run" in tokenize.xpath("string(th)")
    assert "sum of 3 processes" in assemble.xpath("string(th)")


def test_an_old_preparation_has_a_report_too(choosy: Path, tmp_path: Path) -> None:
    copy = tmp_path / "old"
    shutil.copytree(choosy, copy)
    pq.write_table(pq.read_table(copy / "ledger.parquet").drop_columns("language"), copy / "ledger.parquet")
    stats = read_json(copy, "stats.json")
    for split in ("train", "validation"):
        for name in ("languages", "lengths", "num_characters"):
            stats[split].pop(name, None)
    (copy / "stats.json").write_text(json.dumps(stats))
    page = parse(render_report(copy))
    check_numbers(page, copy)
    assert "are unknown" in page.xpath("string(//section[@aria-labelledby='languages'])")
    assert page.xpath("//table[@id='table-characters']") == []
    assert page.xpath("//table[@id='table-tokenizer']") == []


def test_the_command_writes_it_again(output: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(output, copy)
    (copy / "report.html").unlink()
    done = run_report(copy)
    assert (done.returncode, done.stdout) == (0, f"{copy / 'report.html'}\n"), done.stderr
    assert sorted(path.name for path in copy.iterdir()) == sorted(path.name for path in output.iterdir())


def run_report(output: Path) -> "subprocess.CompletedProcess[str]":
    return run_command("data_tools.report", output)


@pytest.mark.parametrize(
    ("name", "content", "rule"),
    [
        ("preparation.json", None, "preparation.json does not exist"),
        ("stats.json", "{", "cannot read stats.json"),
        ("ledger.json", '{"version": 99}', "ledger.json is not of version"),
        ("ledger.parquet", "no table", "cannot read a table"),
    ],
)
def test_what_is_no_preparation_is_refused(
    output: Path, tmp_path: Path, name: str, content: str | None, rule: str
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(output, copy)
    before = (copy / "report.html").read_bytes()
    (copy / name).unlink()
    if content is not None:
        (copy / name).write_text(content)
    with pytest.raises(ConfigError, match=rule):
        write_report(copy)
    assert (copy / "report.html").read_bytes() == before
    done = run_report(copy)
    assert done.returncode == 2
    assert rule in done.stderr


def test_the_share_that_was_kept_is_one_of_pages(output: Path, choosy: Path, tmp_path: Path) -> None:
    copy = tmp_path / "data"
    shutil.copytree(output, copy)
    ledger = read_json(copy, "ledger.json")
    totals = ledger["totals"]
    num_pages = totals["read"]
    for counts in (totals, ledger["files"][0]):
        counts["dropped"]["record_type_request"] = 100
        counts["read"] += 100
    (copy / "ledger.json").write_text(json.dumps(ledger), encoding="utf-8")
    words = " ".join(parse(render_report(copy)).xpath("string(//header/p[last()])").split())
    assert (
        f"{num_pages} of them with a page; {totals['kept']} of these ({100 * totals['kept'] / num_pages:.1f}%)" in words
    )
    totals = read_json(choosy, "ledger.json")["totals"]
    words = " ".join(parse(render_report(choosy)).xpath("string(//header/p[last()])").split())
    assert f"{totals['kept']} of them (" in words and "page" not in words
