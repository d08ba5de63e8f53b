"""The report counts what the tokenizers and the text say, by language, and compares tokenizers side by side."""

import json
import subprocess
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_tools.tokenizer.sample_texts import OWN_PROSE
from data_tools.tokenizer_report import ALL, measure, read_texts, read_validation, render
from tests.data_tools.commands import run_command
from tests.data_tools.conftest import Prepared
from trireme.shards.shard import ShardReader
from trireme.tokenizer.tokenizer import Tokenizer


def run_report(*arguments: object) -> "subprocess.CompletedProcess[str]":
    return run_command("data_tools.tokenizer_report", *arguments)


@pytest.fixture(scope="module")
def exported(prepared: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tokenizer of the preparation as a tokenizer.json."""
    directory = tmp_path_factory.mktemp("exported") / "hf"
    done = run_command("data_tools.export_tokenizer", prepared.output / "tokenizer.model", directory)
    assert done.returncode == 0, done.stderr
    return directory


def test_counts_of_texts(prepared: Prepared) -> None:
    tokenizer = Tokenizer(prepared.output / "tokenizer.model")
    english, chinese = OWN_PROSE["en"], OWN_PROSE["zh"]
    rows = measure({"mine": tokenizer}, [("", english), ("zh", chinese), ("zh", "漢 字"), ("en", "two words")])
    by_language = {row.language: row for row in rows}
    assert list(by_language) == ["en", "zh", ALL], "the language with most text comes first, the sum last"
    one, two = by_language["en"], by_language["zh"]
    assert (one.num_documents, two.num_documents, by_language[ALL].num_documents) == (2, 2, 4)
    assert one.num_words == len(english.split()) + 2
    assert one.num_characters == len(english) + 9
    assert one.num_tokens == len(tokenizer.encode(english)) + len(tokenizer.encode("two words"))
    assert two.num_bytes == len(chinese.encode()) + 7
    # The preparation knows little Chinese: its characters take three bytes each.
    pieces = [tokenizer.token_name(token) or "" for text in (chinese, "漢 字") for token in tokenizer.encode(text)]
    assert two.num_byte_tokens == sum(piece.startswith("<0x") for piece in pieces) > 0.9 * two.num_tokens
    assert two.num_words == pytest.approx(two.num_characters / 2, rel=0.1)
    assert two.tokens_per_character == two.num_tokens / two.num_characters
    assert two.bytes_per_token == two.num_bytes / two.num_tokens
    assert by_language[ALL].num_tokens == one.num_tokens + two.num_tokens


def test_a_prepared_directory(prepared: Prepared, exported: Path) -> None:
    done = run_report(prepared.output, exported, "--shard", prepared.output, "--json")
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    totals = [row for row in rows if row["language"] == ALL]
    assert [row["tokenizer"] for row in totals] == [str(prepared.output), str(exported)]
    stats = json.loads((prepared.output / "stats.json").read_text())["validation"]
    for row in totals:
        assert row["num_documents"] == stats["num_documents"]
        assert row["num_tokens"] == stats["num_tokens"] - stats["num_documents"], "without the ends of documents"
        assert row["num_bytes"] == stats["text_bytes"]
    few = run_report(prepared.output, "--shard", prepared.output, "--max-documents", 3, "--json")
    assert json.loads(few.stdout)[-1]["num_documents"] == 3


def test_the_language_column_comes_before_our_own_judgement(prepared: Prepared, tmp_path: Path) -> None:
    for path in prepared.output.glob("*"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    table = pq.read_table(tmp_path / "validation.documents.parquet")
    count = table.num_rows
    column = pa.array(["xx"] * (count - 1) + [""], pa.string())
    pq.write_table(
        table.set_column(table.schema.get_field_index("language"), "language", column),
        tmp_path / "validation.documents.parquet",
    )
    found = list(read_validation(tmp_path, max_documents=1000))
    assert [language for language, _ in found] == ["xx"] * (count - 1) + [""]
    reader, tokenizer = ShardReader(tmp_path / "validation"), Tokenizer(tmp_path / "tokenizer.model")
    assert tokenizer.encode(found[2][1]) == reader.document(2)[:-1].tolist()
    languages = {row.language for row in measure({"": tokenizer}, found)}
    assert {"xx", ALL} < languages and "" not in languages


def test_texts_of_files(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\ntwo\n\nthree\n")
    (tmp_path / "b.jsonl").write_text('{"text": "four\\nfive"}\n\n{"text": "six"}\n')
    paths = [tmp_path / "a.txt", tmp_path / "b.jsonl"]
    last = ["four\nfive", "six"]
    assert [text for _, text in read_texts(paths, split="file")] == ["one\ntwo\n\nthree\n", *last]
    assert [text for _, text in read_texts(paths, split="paragraph")] == ["one\ntwo", "three\n", *last]
    assert [text for _, text in read_texts(paths, split="line")] == ["one", "two", "three", *last]


def test_the_table(prepared: Prepared, exported: Path, tmp_path: Path) -> None:
    for language, text in OWN_PROSE.items():
        (tmp_path / f"{language}.txt").write_text(text, encoding="utf-8")
    done = run_report(prepared.output / "tokenizer.model", exported, "--text", *sorted(tmp_path.iterdir()))
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["language", "documents", "tokenizer", "tokens/word", "tokens/character", "bytes/token",
                                "byte", "tokens", "tokens"]  # fmt: skip
    assert len(lines) == 1 + 2 * (len(OWN_PROSE) + 1)
    assert {line.split()[0] for line in lines[1::2]} == {*OWN_PROSE, ALL}
    assert all(line.split()[-1] == "+0.0%" for line in lines[2::2]), "the same ids, so as many tokens"
    assert len({len(line) for line in lines}) == 1


def test_another_tokenizer_is_compared_with_the_first(prepared: Prepared) -> None:
    tokenizer = Tokenizer(prepared.output / "tokenizer.model")
    row = measure({"a": tokenizer}, [("en", "some words")])[0]
    half = row.num_tokens // 2
    table = render([row, type(row)(**{**vars(row), "tokenizer": "b", "num_tokens": half})])
    assert table.splitlines()[-1].endswith(f"{half / row.num_tokens - 1:+.1%}")


def test_what_cannot_be_reported(prepared: Prepared, tmp_path: Path) -> None:
    (tmp_path / "no.model").write_bytes(np.arange(99, dtype=np.uint8).tobytes())
    wrong = run_report(tmp_path / "no.model", tmp_path / "gone.json", "--text", tmp_path / "no.model")
    assert wrong.returncode == 2
    assert "2 errors; nothing was started" in wrong.stderr
    assert f"(got {tmp_path / 'no.model'})" in wrong.stderr
    assert f"TOKENIZER: no such file (got {tmp_path / 'gone.json'})" in wrong.stderr
    empty = run_report(prepared.output, "--shard", tmp_path)
    assert f"--shard: no tokenizer in this directory (got {tmp_path})" in empty.stderr
    unreadable = run_report(prepared.output, "--text", prepared.output / "validation.bin")
    assert "--text: cannot read the file" in unreadable.stderr
    none = run_report(prepared.output, "--shard", prepared.output, "--max-documents", 0)
    assert "--max-documents: must be at least 1 (got 0)" in none.stderr
    for done in (empty, unreadable, none):
        assert done.returncode == 2 and "Traceback" not in done.stderr
