"""Workers that are killed at any point of the conversation change nothing about what is collected and packed."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_tools import dispatch, packing, workers
from data_tools.collection import Collection
from data_tools.config import DataPrepConfig, NearDuplicatesConfig, SourceConfig, SplitConfig, TokenizerConfig
from data_tools.load import Task
from data_tools.pack_batch import serve_packing
from data_tools.reading import serve_reading
from data_tools.sources import resolve_inputs
from data_tools.stages import Preparation, Share, Stage, run_stage
from tests.data_tools.conftest import Prepared
from tests.data_tools.inputs import hash_files

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


def serve_deadly_packing(connection: Any, number: int, *arguments: Any) -> None:
    serve_packing(_make_deadly(connection, number), number, *arguments)


def run(prepared: Prepared, directory: Path, *, num_workers: int) -> tuple[Collection, dict[str, str]]:
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
    preparation.place.create()
    run_stage(Stage.READ, preparation, Share())
    run_stage(Stage.CHOOSE, preparation, Share())
    collection = Collection.load(preparation.place.choose)
    run_stage(Stage.ASSEMBLE, preparation, Share())
    return collection, hash_files(directory)


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
    monkeypatch.setattr(packing, "serve_packing", serve_deadly_packing)
    collection, other_files = run(prepared, tmp_path / "deadly", num_workers=3)
    # The last few may still live when the work is done.
    assert len(deaths) >= 1.5 * NUM_KILLED
    assert all("was killed by signal 9" in death for death in deaths)
    for name in ("hashes", "is_validation", "num_characters", "language_codes"):
        np.testing.assert_array_equal(getattr(collection, name), getattr(calm, name))
    assert other_files == files
    totals = json.loads((tmp_path / "deadly" / "ledger.json").read_text(encoding="utf-8"))["totals"]
    assert totals["kept"] == 130
