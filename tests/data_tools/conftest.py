"""The server of warm workers, and one preparation of all kinds of input for the tests that look at its output."""

import contextlib
import multiprocessing
from dataclasses import dataclass
from multiprocessing.forkserver import ensure_running
from pathlib import Path

import pytest

from data_tools.work import pool as workers
from tests import warm
from tests.data_tools.commands import REPOSITORY
from tests.data_tools.sample_inputs import make_text, run_prepare, sources_override, write_dump, write_jsonl, write_warc


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A finished preparation."""

    inputs: Path
    output: Path
    overrides: tuple[str, ...]
    """Without output_dir and num_workers."""
    json_texts: list[str]
    """In input order."""
    stdout: str
    stderr: str


@pytest.fixture(scope="session", autouse=True)
def warm_server() -> None:
    """Start the server that all processes are forked from, unless it runs, with what other folders need of it too.

    Left to the first preparation it would know of data_tools alone, and be the same for the rest of the tests.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*warm.PRELOADED, workers.PRELOADED])
    with contextlib.chdir(REPOSITORY):
        ensure_running()


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    inputs = tmp_path_factory.mktemp("inputs")
    output = tmp_path_factory.mktemp("prepared") / "data"
    json_texts = [make_text(seed) for seed in range(100, 180)]
    json_texts[5] = "Zwölf Boxkämpfer jagen Viktor über den Sylter Deich. 敏捷的狐狸跳过懒狗。 🦊🐕 " * 4 + "Ende."
    records: list[dict[str, object] | str] = [
        {"text": text, "id": f"j{number}", "url": f"https://example.org/j/{number}", "title": f"Title {number}"}
        for number, text in enumerate(json_texts)
    ]
    records.insert(3, "{this is no JSON")
    records.insert(10, {"text": "too short"})
    records.append(records[1])
    overrides = (
        sources_override(
            ("warc", [write_warc(inputs / "pages.warc.gz", map(make_text, range(25)))]),
            ("wikipedia", [write_dump(inputs / "wiki-pages-articles.xml.bz2", map(make_text, range(50, 75)))]),
            ("jsonl", [write_jsonl(inputs / "records.jsonl", records)]),
        ),
        "data_prep.split.validation_fraction=0.15",
        "data_prep.tokenizer.vocab_size=512",
        "data_prep.tokenizer.num_threads=1",
        # Some twenty batches, so that workers can get in each other's way.
        "data_prep.batch_bytes=4096",
    )
    done = run_prepare(*overrides, f"data_prep.output_dir={output}", "data_prep.num_workers=3")
    assert done.returncode == 0, done.stderr
    return Prepared(
        inputs=inputs,
        output=output,
        overrides=overrides,
        json_texts=json_texts,
        stdout=done.stdout,
        stderr=done.stderr,
    )
