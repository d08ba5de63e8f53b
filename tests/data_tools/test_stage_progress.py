"""Stages on the screen: numbered, in units that people read, and remembered with their times."""

import json
from pathlib import Path

import pytest

from data_tools.stage_progress import Mode, StageProgress, Stages
from data_tools.stage_timings import StageTiming, read_timings, write_timings


def test_plain_stages_are_numbered_and_bytes_have_units(capsys: pytest.CaptureFixture[str]) -> None:
    stages = Stages(num_stages=2, mode="auto")
    with stages.begin("read", total=3 * 2**20, unit="bytes") as progress:
        progress.update(2**20)
        progress.update(3 * 2**20)
    with stages.begin("tokenize", total=10, unit="documents", done_before=4) as progress:
        progress.update(10)
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("1/2 read: 3.00 MiB/3.00 MiB (100%), ")
    assert second.startswith("2/2 tokenize: 10/10 documents (100%), ")
    assert first.endswith(", done")
    assert [(stage.title, stage.amount, stage.unit, stage.is_whole) for stage in stages.timings] == [
        ("read", 3 * 2**20, "bytes", True),
        ("tokenize", 6, "documents", False),
    ]
    assert all(0 < stage.seconds < 60 for stage in stages.timings)


def test_a_bar_tells_number_and_rate(capsys: pytest.CaptureFixture[str]) -> None:
    stages = Stages(num_stages=4, mode="on")
    with stages.begin("read", total=2**20, unit="bytes") as progress:
        progress.update(2**20)
    with stages.begin("tokenizer", total=None, unit="lines") as progress:
        progress.update(1234)
    shown = capsys.readouterr().err
    assert "1/4 read" in shown
    assert "iB/s" in shown
    assert "2/4 tokenizer" in shown
    assert "1.23k lines" in shown


@pytest.mark.parametrize("mode", ["auto", "on", "off"])
def test_a_stage_that_fails_has_no_time(mode: Mode, capsys: pytest.CaptureFixture[str]) -> None:
    stages = Stages(num_stages=1, mode=mode)
    with pytest.raises(RuntimeError), stages.begin("read", total=1, unit="bytes"):
        raise RuntimeError
    assert stages.timings == []
    assert "done" not in capsys.readouterr().err


def test_a_single_stage_has_no_number(capsys: pytest.CaptureFixture[str]) -> None:
    with StageProgress("merge", total=1, unit="documents", mode="auto") as progress:
        progress.update(1)
    assert capsys.readouterr().err.startswith("merge: 1/1 documents (100%), ")


def test_timings_come_back_from_the_disk(tmp_path: Path) -> None:
    assert read_timings(tmp_path) == []
    stages = [StageTiming(title="read", seconds=2.0, amount=10, unit="bytes")]
    write_timings(tmp_path, stages)
    assert read_timings(tmp_path) == stages
    assert stages[0].rate == 5.0
    for other in ({"version": 0, "stages": [{}]}, [], "cut off"):
        text = json.dumps(other) if other != "cut off" else '{"version": 1, "sta'
        (tmp_path / "timings.json").write_text(text)
        assert read_timings(tmp_path) == []
