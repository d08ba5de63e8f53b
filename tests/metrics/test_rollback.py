"""A run that goes back to an earlier step, in every sink."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from tests.metrics.records import step_record
from tests.metrics.test_wandb import FakeWandb
from trainer.config.run import WandbConfig
from trainer.metrics import wandb as wandb_sink
from trainer.metrics.console import BarConsoleSink, PlainConsoleSink
from trainer.metrics.jsonl import JsonlSink, read_records
from trainer.metrics.record import RollbackMetrics
from trainer.metrics.recorder import MetricsRecorder

BACK = RollbackMetrics(
    step=3, from_step=5, trouble="loss_spike", skipped_samples=[[24, 40], [48, 56]], consumed_samples=24
)


def test_metrics_after_a_rollback_are_one_curve_with_the_rollback_marked(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    recorder = MetricsRecorder([JsonlSink(path, resumed_step=0)])
    for step in range(1, 6):
        recorder.record_step(step_record(step))
    recorder.record_rollback(BACK)
    for step in (4, 5):
        recorder.record_step(step_record(step))
    recorder.close()
    records = read_records(path)
    assert [(record["kind"], record["step"]) for record in records] == [
        ("train", 1),
        ("train", 2),
        ("train", 3),
        ("rollback", 3),
        ("train", 4),
        ("train", 5),
    ]
    assert records[3]["from_step"] == 5 and records[3]["skipped_samples"] == [[24, 40], [48, 56]]


def test_console_lines_and_bar_show_a_rollback(capsys: pytest.CaptureFixture[str]) -> None:
    line = "step  3/10 | ROLLED BACK from step 5: loss_spike | 24 samples skipped"
    PlainConsoleSink(total_steps=10).record_rollback(BACK)
    assert capsys.readouterr().out == line + "\n"
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    bar = BarConsoleSink(total_steps=10, resumed_step=0, console=console)
    bar.record_step(step_record(5))
    bar.record_rollback(BACK)
    assert bar._progress.tasks[0].completed == 3
    bar.close()
    assert line in console.file.getvalue()  # type: ignore[attr-defined]


def test_wandb_receives_a_rollback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeWandb()
    monkeypatch.setattr(wandb_sink, "_import_wandb", lambda: fake)
    sink = wandb_sink.WandbSink(
        WandbConfig(mode="online"), run_directory=tmp_path, run_name="demo", run_config={}, resumed_step=0
    )
    sink.record_rollback(BACK)
    assert fake.run.logged == [
        {
            "step": 3,
            "rollback/from_step": 5,
            "rollback/trouble": "loss_spike",
            "rollback/num_skipped_samples": 24,
            "rollback/consumed_samples": 24,
        }
    ]
