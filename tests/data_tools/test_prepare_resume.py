"""What stopped and runs again does only what is missing."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from data_tools.work.journal import JournalWriter, read_journals
from tests.data_tools.commands import run_process
from tests.data_tools.conftest import Prepared
from tests.data_tools.sample_inputs import (
    hash_files,
    make_text,
    prepare_command,
    run_prepare,
    sources_override,
    write_jsonl,
)


@pytest.fixture
def inputs(tmp_path: Path) -> Iterator[list[Path]]:
    yield [
        write_jsonl(tmp_path / f"{name}.jsonl", ({"text": make_text(first + seed)} for seed in range(20)))
        for name, first in (("a", 0), ("b", 100))
    ]


def stop_behind_reading(overrides: tuple[str, ...], output: Path) -> dict[Path, bytes]:
    """Run until the tokenizer cannot be trained; return the journals of reading."""
    done = run_prepare(*overrides, "data_prep.tokenizer.vocab_size=65536")
    assert done.returncode == 1
    assert "too large for the text" in done.stderr
    assert f"Partial results are in {output}/.preparing; rerun the same command to resume." in done.stderr
    return {path: path.read_bytes() for path in output.glob(".preparing/read-*/*.journal")}


def test_only_what_is_missing_is_done(inputs: list[Path], tmp_path: Path) -> None:
    output = tmp_path / "data"
    overrides = (f"data_prep.output_dir={output}", "data_prep.num_workers=1", "data_prep.tokenizer.num_threads=1")
    of_a = sources_override(("jsonl", inputs[:1]))
    of_both = sources_override(("jsonl", inputs))
    journals = stop_behind_reading((*overrides, of_a), output)
    assert len(journals) == 1
    # Another vocabulary: nothing is read again.
    assert stop_behind_reading((*overrides, of_a, "data_prep.tokenizer.model_type=bpe"), output) == journals
    # A further file: only that one is read.
    both = stop_behind_reading((*overrides, of_both), output)
    assert journals.items() < both.items()
    (new,) = both.keys() - journals.keys()
    read = [entry.result for entry in read_journals(new.parent) if entry.file_key]
    assert len(read) == 4, "a batch and an end of each file"
    # A changed file is read again.
    os.utime(inputs[0], ns=(1, 1))
    assert len(stop_behind_reading((*overrides, of_both), output)) == 3
    # Other settings have other results, and leave nothing of these.
    changed = stop_behind_reading((*overrides, of_both, "data_prep.cleaning.min_characters=101"), output)
    assert len(changed) == 1 and not changed.keys() & both.keys()
    finished = run_prepare(
        *overrides, of_both, "data_prep.tokenizer.vocab_size=512", "data_prep.cleaning.min_characters=101"
    )
    assert finished.returncode == 0, finished.stderr
    assert not (output / ".preparing").exists()
    fresh = tmp_path / "fresh"
    again = run_prepare(
        of_both,
        "data_prep.tokenizer.vocab_size=512",
        "data_prep.tokenizer.num_threads=1",
        "data_prep.cleaning.min_characters=101",
        f"data_prep.output_dir={fresh}",
    )
    assert again.returncode == 0, again.stderr
    assert hash_files(output) == hash_files(fresh)


def test_a_full_disk_stops_it_and_room_lets_it_go_on(prepared: Prepared, tmp_path: Path) -> None:
    output = tmp_path / "data"
    output.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=48k", "tmpfs", str(output)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no small file system can be mounted here: {mounted.stderr.decode().strip()}")
    try:
        overrides = (*prepared.overrides, f"data_prep.output_dir={output}", "data_prep.num_workers=2")
        full = run_process(*prepare_command(*overrides))
        assert full.returncode == 1
        assert "No space left on device" in full.stderr
        assert "Traceback" not in full.stderr
        assert [path.name for path in output.iterdir()] == [".preparing"]
        subprocess.run(["mount", "-o", "remount,size=16m", str(output)], check=True)
        again = run_prepare(*overrides)
        assert again.returncode == 0, again.stderr
        assert hash_files(output) == hash_files(prepared.output)
    finally:
        subprocess.run(["umount", str(output)], check=True)


def test_strict_stops_at_the_first_bad_record(prepared: Prepared, tmp_path: Path) -> None:
    output = tmp_path / "data"
    overrides = (*prepared.overrides, f"data_prep.output_dir={output}", "data_prep.num_workers=2")
    for _ in range(2):  # what an earlier run has found counts too
        done = run_prepare(*overrides, "data_prep.strict=true")
        assert done.returncode == 2
        assert f"{prepared.inputs / 'records.jsonl'}: record 3 " in done.stderr
        assert "data_prep.strict=false" in done.stderr
        assert "Traceback" not in done.stderr
        assert [path.name for path in output.iterdir()] == [".preparing"]
    lenient = run_prepare(*overrides)
    assert lenient.returncode == 0, lenient.stderr
    assert json.loads((output / "ledger.json").read_text(encoding="utf-8"))["totals"]["failed"]
    assert hash_files(output) == hash_files(prepared.output)


def test_an_entry_that_was_cut_off_is_not_there(tmp_path: Path) -> None:
    with JournalWriter(tmp_path, name="a") as journal:
        journal.append("first")
        first_end = (path := tmp_path / "a.journal").stat().st_size
        journal.append("second")
    whole = path.read_bytes()
    for end in range(len(whole)):
        path.write_bytes(whole[:end])
        assert list(read_journals(tmp_path)) == (["first"] if end >= first_end else [])
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert list(read_journals(tmp_path)) == ["first"]
