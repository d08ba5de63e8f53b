"""Workers that are killed at any point of the conversation change nothing about what is collected and packed."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_tools import collection as collection_module
from data_tools import packing, workers
from data_tools.collection import Collection, collect_documents
from data_tools.config import DataPrepConfig, NearDuplicatesConfig, SourceConfig, SplitConfig
from data_tools.ledger import ledger_to_dict
from data_tools.packing import pack_documents, serve_packing
from data_tools.reading import serve_reading
from data_tools.selection import choose_fates, choose_firsts
from data_tools.sources import resolve_inputs
from tests.data_tools.conftest import Prepared
from tests.data_tools.test_prepare import hash_files

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


def run(prepared: Prepared, directory: Path, *, num_workers: int) -> tuple[Collection, np.ndarray, dict[str, str], Any]:
    """Collect and pack the inputs of the prepared output."""
    sources = [
        SourceConfig(name=kind, kind=kind, paths=[str(prepared.inputs / name)])  # type: ignore[arg-type]
        for kind, name in (
            ("warc", "pages.warc.gz"),
            ("wikipedia", "wiki-pages-articles.xml.bz2"),
            ("jsonl", "records.jsonl"),
        )
    ]
    config = DataPrepConfig(
        output_dir="unused",
        sources=sources,
        split=SplitConfig(validation_fraction=0.15),
        near_duplicates=NearDuplicatesConfig(is_enabled=True),
        batch_bytes=4096,
        progress="off",
    )
    spool, output = directory / "spool", directory / "built"
    spool.mkdir(parents=True)
    output.mkdir()
    files, _ = resolve_inputs(sources)
    collection = collect_documents(files, config=config, evaluations=None, directory=spool, num_workers=num_workers)
    firsts = choose_firsts(collection, config=config.near_duplicates, directory=spool)
    fates = choose_fates(collection, drop_duplicates=True, firsts=firsts)
    pack_documents(
        collection,
        fates,
        firsts=firsts,
        tokenizer_path=prepared.output / "tokenizer.model",
        vocab_size=512,
        spool_directory=spool,
        output=output,
        num_workers=num_workers,
        mode="off",
    )
    return collection, fates, hash_files(output), ledger_to_dict(collection.ledgers)


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
    calm, fates, files, ledger = run(prepared, tmp_path / "calm", num_workers=1)
    assert not deaths
    monkeypatch.setattr(collection_module, "serve_reading", serve_deadly_reading)
    monkeypatch.setattr(packing, "serve_packing", serve_deadly_packing)
    collection, other_fates, other_files, other_ledger = run(prepared, tmp_path / "deadly", num_workers=3)
    # The last few may still live when the work is done.
    assert len(deaths) >= 1.5 * NUM_KILLED
    assert all("was killed by signal 9" in death for death in deaths)
    for name in ("hashes", "is_validation", "num_characters"):
        np.testing.assert_array_equal(getattr(collection, name), getattr(calm, name))
    np.testing.assert_array_equal(other_fates, fates)
    assert other_files == files
    assert other_ledger == ledger
    assert ledger["totals"]["kept"] == 130
