"""The diary of a run: appended to, never rewritten, and no reason to stop."""

import logging
from pathlib import Path

import pytest

from trainer.metrics.events import EventLog
from trainer.metrics.jsonl import read_records


def test_events_are_appended_over_restarts(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    EventLog(path).record("start", step=0)
    EventLog(path).record("rollback", step=7, sample_ids=[3, 4], to_step=5)
    first, second = read_records(path)
    assert (first["kind"], first["step"]) == ("start", 0)
    assert second["sample_ids"] == [3, 4]
    assert second["to_step"] == 5
    assert first["time"] <= second["time"]


def test_not_finite_values_are_null(tmp_path: Path) -> None:
    EventLog(tmp_path / "events.jsonl").record("rollback", step=7, loss=float("nan"), values=[float("inf"), 1.0])
    text = (tmp_path / "events.jsonl").read_text()
    assert '"loss": null, "values": [null, 1.0]' in text


def test_other_ranks_write_nothing(tmp_path: Path) -> None:
    EventLog(None).record("start", step=0)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_named_and_the_event_is_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        EventLog(Path("/dev/full")).record("checkpoint_failed", step=3, reason="why")
    assert "Failed to write this event to /dev/full (No space left on device)" in caplog.text
    assert '"reason": "why"' in caplog.text
