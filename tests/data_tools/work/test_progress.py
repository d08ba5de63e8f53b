"""Stages on the screen: numbered, in units that people read; and their times, whoever runs them."""

import json
from pathlib import Path

import pytest

from data_tools.work.progress import (
    Mode,
    StageProgress,
    Stages,
    StageTiming,
    note_timing,
    read_timings,
    sum_timings,
    write_timings,
)


def test_plain_stages_are_numbered_and_bytes_have_units(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    stages = Stages(titles=("read", "decide", "tokenize"), mode="auto", timings=tmp_path / "timings.jsonl")
    with stages.begin("read", total=3 * 2**20, unit="bytes") as progress:
        progress.update(2**20)
        progress.update(3 * 2**20)
    with stages.begin("tokenize", total=10, unit="documents", done_before=4) as progress:
        progress.update(10)
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("1/3 read: 3.00 MiB/3.00 MiB (100%), ")
    assert second.startswith("3/3 tokenize: 10/10 documents (100%), ")
    assert first.endswith(", done")
    timings = sum_timings(tmp_path / "timings.jsonl")
    assert [(each.title, each.amount, each.unit, each.is_whole) for each in timings] == [
        ("read", 3 * 2**20, "bytes", True),
        ("tokenize", 6, "documents", False),
    ]
    assert all(0 < each.seconds < 60 for each in timings)


def test_a_bar_tells_number_and_rate(capsys: pytest.CaptureFixture[str]) -> None:
    stages = Stages(titles=("read", "tokenizer", "tokenize"), mode="on")
    with stages.begin("read", total=2**20, unit="bytes") as progress:
        progress.update(2**20)
    with stages.begin("tokenizer", total=None, unit="lines") as progress:
        progress.update(1234)
    shown = capsys.readouterr().err
    assert "1/3 read" in shown
    assert "iB/s" in shown
    assert "2/3 tokenizer" in shown
    assert "1.23k lines" in shown


@pytest.mark.parametrize("mode", ["auto", "on", "off"])
def test_a_stage_that_fails_is_not_whole(mode: Mode, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    notes = tmp_path / "timings.jsonl"
    stages = Stages(titles=("read",), mode=mode, timings=notes)
    with pytest.raises(RuntimeError), stages.begin("read", total=10, unit="bytes") as progress:
        progress.update(7)
        raise RuntimeError
    assert "done" not in capsys.readouterr().err
    assert [(each.amount, each.is_whole) for each in sum_timings(notes)] == [(7, False)]
    with stages.begin("read", total=10, unit="bytes", done_before=7) as progress:
        progress.update(10)
    assert [(each.amount, each.num_parts, each.is_whole) for each in sum_timings(notes)] == [(10, 2, False)]


def test_a_single_stage_has_no_number(capsys: pytest.CaptureFixture[str]) -> None:
    with StageProgress("merge", total=1, unit="documents", mode="auto") as progress:
        progress.update(1)
    assert capsys.readouterr().err.startswith("merge: 1/1 documents (100%), ")


def test_times_of_all_processes_add_up(tmp_path: Path) -> None:
    notes = tmp_path / "timings.jsonl"
    assert sum_timings(notes) == []
    for seconds in (1.5, 2.5):
        note_timing(notes, StageTiming(title="read", seconds=seconds, amount=10, unit="bytes"))
        note_timing(notes, StageTiming(title="tokenize", seconds=1.0, amount=1, unit="documents"))
    with open(notes, "a") as stream:
        stream.write('{"title": "rea')
    assert sum_timings(notes) == [
        StageTiming(title="read", seconds=4.0, amount=20, unit="bytes", num_parts=2),
        StageTiming(title="tokenize", seconds=2.0, amount=2, unit="documents", num_parts=2),
    ]
    assert sum_timings(notes)[0].rate == 5.0


def test_timings_come_back_from_the_disk(tmp_path: Path) -> None:
    assert read_timings(tmp_path) == []
    stages = [StageTiming(title="read", seconds=2.0, amount=10, unit="bytes")]
    write_timings(tmp_path, stages)
    assert read_timings(tmp_path) == stages
    for text in (json.dumps({"version": 0, "stages": [{}]}), "[]", '{"version": 1, "sta'):
        (tmp_path / "timings.json").write_text(text)
        assert read_timings(tmp_path) == []
