"""Workers that are killed at any point of the conversation change nothing about what is read and tokenized."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_tools.config.filtering import NearDuplicatesConfig
from data_tools.config.schema import DataPrepConfig, SourceConfig, SplitConfig, TokenizerConfig
from data_tools.dedup.corpus import Corpus
from data_tools.inputs.files import resolve_inputs
from data_tools.stages import read as dispatch
from data_tools.stages import tokenize as packing
from data_tools.stages.cache import Stage
from data_tools.stages.preparation import Preparation, Share, Task
from data_tools.stages.read_worker import serve_reading
from data_tools.stages.run import run_stage
from data_tools.stages.tokenize_worker import serve_tokenizing
from data_tools.work import pool as workers
from tests.data_tools.conftest import Prepared
from tests.data_tools.sample_inputs import hash_files, make_text, run_prepare, sources_override, write_jsonl

NUM_KILLED = 7
"""Processes of each stage that kill themselves, the first ones and those that take their places."""


class DeadlyConnection:
    """A worker's end of the pipe at which it is killed: before or behind its n-th message."""

    def __init__(self, connection: Any, *, operations: int) -> None:
        self._connection, self._left = connection, operations

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._connection, name)

        def call(*arguments: Any) -> Any:
            self._left -= 1
            if self._left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return method(*arguments)

        return call


def _make_deadly(connection: Any, number: int) -> Any:
    # 1, 4, 7, 3, 6, 2, 5, ...: at the first task, between an offer and its answer, before a result, ...
    return connection if number >= NUM_KILLED else DeadlyConnection(connection, operations=1 + number * 3 % 7)


def serve_deadly_reading(connection: Any, number: int, *arguments: Any) -> None:
    serve_reading(_make_deadly(connection, number), number, *arguments)


def serve_deadly_tokenizing(connection: Any, number: int, *arguments: Any) -> None:
    serve_tokenizing(_make_deadly(connection, number), number, *arguments)


def run(prepared: Prepared, directory: Path, *, num_workers: int) -> tuple[Corpus, dict[str, str]]:
    """Prepare the inputs of the prepared output."""
    sources = [
        SourceConfig(name=kind, kind=kind, paths=[str(prepared.inputs / name)])  # type: ignore[arg-type]
        for kind, name in (
            ("warc", "pages.warc.gz"),
            ("wikipedia", "wiki-pages-articles.xml.bz2"),
            ("jsonl", "records.jsonl"),
        )
    ]
    config = DataPrepConfig(
        output_dir=str(directory),
        sources=sources,
        split=SplitConfig(validation_fraction=0.15),
        near_duplicates=NearDuplicatesConfig(is_enabled=True),
        tokenizer=TokenizerConfig(path=str(prepared.output / "tokenizer.model")),
        batch_bytes=4096,
        num_workers=num_workers,
        progress="off",
    )
    task = Task(config=config, files=resolve_inputs(sources)[0], evaluation_files=[])
    preparation = Preparation.of(task)
    preparation.directories.create()
    run_stage(Stage.READ, preparation, Share())
    run_stage(Stage.DECIDE, preparation, Share())
    run_stage(Stage.TRAIN_TOKENIZER, preparation, Share())
    corpus = Corpus.load(preparation.directories.decide)
    run_stage(Stage.ASSEMBLE, preparation, Share())
    return corpus, hash_files(directory)


@pytest.fixture
def deaths(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Lists the deaths; they may fall on the same work again and again."""
    found: list[str] = []
    monkeypatch.setattr(workers, "MAX_DEATHS", 1000)
    monkeypatch.setattr(workers.logger, "warning", lambda text, death: found.append(str(death)))
    yield found


def test_killed_workers_change_no_byte(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, deaths: list[str]
) -> None:
    calm, files = run(prepared, tmp_path / "calm", num_workers=1)
    assert not deaths
    monkeypatch.setattr(dispatch, "serve_reading", serve_deadly_reading)
    monkeypatch.setattr(packing, "serve_tokenizing", serve_deadly_tokenizing)
    corpus, other_files = run(prepared, tmp_path / "deadly", num_workers=3)
    # The last few may still live when the work is done.
    assert len(deaths) >= 1.5 * NUM_KILLED
    assert all("was killed (SIGKILL)" in death for death in deaths)
    for name in ("hashes", "is_validation", "num_characters", "language_codes"):
        np.testing.assert_array_equal(getattr(corpus, name), getattr(calm, name))
    assert other_files == files
    totals = json.loads((tmp_path / "deadly" / "ledger.json").read_text(encoding="utf-8"))["totals"]
    assert totals["kept"] == 130


@pytest.mark.parametrize("num_workers", [1, 3])
def test_no_record_holds_a_worker(tmp_path: Path, num_workers: int) -> None:
    texts = [make_text(number) for number in range(40)]
    for number in (7, 8, 30):
        texts[number] += " neverending"
    source = write_jsonl(
        tmp_path / "a.jsonl", [{"text": text, "id": f"id {number}"} for number, text in enumerate(texts)]
    )
    done = run_prepare(
        f"data_prep.output_dir={tmp_path / 'output'}",
        sources_override(("jsonl", [source])),
        "data_prep.custom_filters=[{_target_:tests.data_tools.slow_step.StopForever,word:neverending}]",
        "data_prep.cleaning.max_record_seconds=0.2",
        "data_prep.batch_bytes=4096",
        "data_prep.tokenizer.vocab_size=384",
        f"data_prep.num_workers={num_workers}",
    )
    assert done.returncode == 0, done.stderr
    ledger = json.loads((tmp_path / "output" / "ledger.json").read_text(encoding="utf-8"))
    assert (ledger["totals"]["kept"], ledger["totals"]["failed"]) == (37, {"time_limit": 3})
    examples = [entry for entry in ledger["files"][0]["examples"] if entry["reason"] == "time_limit"]
    assert [entry["record"] for entry in examples] == [7, 8, 30]
    assert examples[0]["detail"] == "took more than 0.2 s of processor time"
    assert f"record 30 of {source} took more than" in done.stderr
