"""The start notice is printed once, by the first process of a command."""

import pytest

from trireme import start_notice
from trireme.start_notice import STARTED_AT, announce_start, seconds_since_start


def test_the_notice_is_printed_once_and_keeps_the_time(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv(STARTED_AT, raising=False)
    monkeypatch.setattr(start_notice.time, "time", lambda: 1000.0)
    assert seconds_since_start() is None
    environment: dict[str, str] = {}
    announce_start("run first (1 process)", environment=environment)
    announce_start("training", environment=environment)
    captured = capsys.readouterr()
    assert captured.err == "Importing PyTorch, Megatron-Core and DeepSpeed for run first (1 process)\n"
    assert captured.out == ""
    monkeypatch.setenv(STARTED_AT, environment[STARTED_AT])
    monkeypatch.setattr(start_notice.time, "time", lambda: 1009.5)
    assert seconds_since_start() == 9.5
