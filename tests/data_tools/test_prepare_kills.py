"""Killed at any moment and run again, a preparation gives what it gives undisturbed."""

import importlib
import os
import random
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from data_tools.prepare import run
from tests import warm
from tests.data_tools.commands import LIMIT_SECONDS, run_process, start_command
from tests.data_tools.conftest import Prepared
from tests.data_tools.sample_inputs import OF_THE_RUN, hash_files, prepare_command, run_prepare
from tests.data_tools.test_prepare_stops import workers_of

NUM_KILLS = 24
DEADLY = (
    ("data_tools.work.journal", "JournalWriter.append", 2),  # one batch of the input is noted
    ("data_tools.stages.run", "decide", 1),  # all of it is read
    ("data_tools.stages.run", "train_tokenizer", 1),  # the documents are decided on
    ("data_tools.stages.tokenize", "JournalWriter.append", 3),  # two batches are tokenized
    ("data_tools.stages.run", "record_files", 1),  # everything is built
    ("data_tools.stages.run", "write_report_best_effort", 1),  # and published
)
"""Places in the order in which a preparation comes there: module, name, and at which call it is killed."""


def run_deadly(overrides: tuple[str, ...], module: str, name: str, call: int) -> None:
    """Prepare, in a process of its own, and be killed."""
    *owners, last = name.split(".")
    owner: Any = importlib.import_module(module)
    for part in owners:
        owner = getattr(owner, part)
    alive, calls = getattr(owner, last), 0

    def count(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return alive(*arguments, **options)

    setattr(owner, last, count)
    run([*overrides, "data_prep.progress=off"])


def test_killed_at_each_stage_it_gives_the_same_bytes(prepared: Prepared, tmp_path: Path) -> None:
    output = tmp_path / "data"
    overrides = (*prepared.overrides, f"data_prep.output_dir={output}", "data_prep.num_workers=2")
    # Forked from the server that the workers are forked from: it takes no second for imports.
    context = warm.context()
    expected = {path.name for path in prepared.output.iterdir()} - set(OF_THE_RUN)
    for number, place in enumerate(DEADLY, start=1):
        process = context.Process(target=run_deadly, args=(overrides, *place))
        process.start()
        process.join(LIMIT_SECONDS)
        assert process.exitcode == -signal.SIGKILL, place
        found = {path.name for path in output.iterdir()}
        assert found == ({".preparing"} if number < len(DEADLY) else expected), place
    last = run_prepare(*overrides)
    assert last.returncode == 0, last.stderr
    assert "Already up to date" in last.stdout
    assert (output / "report.html").exists()
    assert hash_files(output) == hash_files(prepared.output)


def wait_for_processes(processes: list[psutil.Process]) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.wait(timeout=LIMIT_SECONDS)


def kill_at(seconds: float, *, is_parent: bool, source: random.Random, overrides: tuple[str, ...]) -> bool:
    """Run the command and kill it, or one of its workers, after so long.

    Returns:
        Whether it was still there to be killed.
    """
    process = start_command("data_tools.prepare", *overrides)
    with suppress(subprocess.TimeoutExpired):
        process.wait(timeout=seconds)
    workers: list[psutil.Process] = []
    with suppress(psutil.NoSuchProcess):
        workers = workers_of(process.pid)
    victim = process if is_parent or not workers else source.choice(workers)
    is_killed = process.poll() is None
    if is_killed:
        with suppress(psutil.NoSuchProcess):
            victim.kill()
    _, stderr = process.communicate(timeout=LIMIT_SECONDS)
    if victim is process:
        wait_for_processes(workers)
    else:
        assert process.returncode == 0, stderr
    return is_killed


@pytest.mark.long
def test_killed_twenty_times_and_more_it_gives_the_same_bytes(prepared: Prepared, tmp_path: Path) -> None:
    overrides = (*prepared.overrides, "data_prep.num_workers=2", "data_prep.near_duplicates.is_enabled=true")
    calm = tmp_path / "calm"
    begin = time.monotonic()
    done = run_process(*prepare_command(*overrides, f"data_prep.output_dir={calm}"))
    seconds = time.monotonic() - begin
    assert done.returncode == 0, done.stderr
    expected = hash_files(calm)
    assert {"train.bin", "train.manifest.json", "ledger.json", "ledger.parquet"} <= set(expected)
    of_the_run = ("report.html", "report.html.partial", "timings.json")
    source = random.Random(7)
    num_kills, num_outputs = 0, 0
    while num_kills < NUM_KILLS:
        output = tmp_path / f"output{num_outputs}"
        mine = (*overrides, f"data_prep.output_dir={output}")
        # Several in a row in one directory: each goes on where the one before was killed.
        for _ in range(source.randint(2, 5)):
            # Most of the time at the beginning is imports.
            moment = source.uniform(0.25, 1.0) * seconds
            num_kills += kill_at(moment, is_parent=source.random() < 0.7, source=source, overrides=mine)
            if output.exists():
                assert {path.name for path in output.iterdir()} <= {".preparing", *expected, *of_the_run}
        last = run_prepare(*mine)
        assert last.returncode == 0, last.stderr
        assert hash_files(output) == expected
        assert (output / "report.html").exists()
        num_outputs += 1
