"""Which records reach the sinks, and that a broken sink is left out instead of ending the run."""

import logging
from pathlib import Path

import pytest

from tests.metrics.records import step_record, validation_record
from trainer.config.run import LoggingConfig, WandbConfig
from trainer.metrics.jsonl import read_records
from trainer.metrics.record import StepMetrics, ValidationMetrics
from trainer.metrics.recorder import MetricsRecorder, build_recorder


class Memory:
    def __init__(self) -> None:
        self.steps: list[int] = []
        self.validations: list[int] = []
        self.is_closed = False

    def record_step(self, metrics: StepMetrics) -> None:
        self.steps.append(metrics.step)

    def record_validation(self, metrics: ValidationMetrics) -> None:
        self.validations.append(metrics.step)

    def close(self) -> None:
        self.is_closed = True


class Broken(Memory):
    def record_step(self, metrics: StepMetrics) -> None:
        super().record_step(metrics)
        raise OSError(28, "No space left on device")

    def close(self) -> None:
        raise OSError(28, "No space left on device")


def test_every_interval_the_last_and_every_skipped_step_are_recorded() -> None:
    sink = Memory()
    recorder = MetricsRecorder([sink], log_interval=5, total_steps=17)
    for step in range(1, 18):
        recorder.record_step(step_record(step, is_skipped=step == 7))
        recorder.record_validation(validation_record(step))
    recorder.close()
    assert sink.steps == [5, 7, 10, 15, 17]
    assert sink.validations == list(range(1, 18))
    assert sink.is_closed


def test_a_broken_sink_is_left_out_with_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    broken, good = Broken(), Memory()
    recorder = MetricsRecorder([broken, good])
    with caplog.at_level(logging.WARNING):
        for step in (1, 2, 3):
            recorder.record_step(step_record(step))
        recorder.close()
    assert broken.steps == [1]
    assert good.steps == [1, 2, 3]
    assert good.is_closed
    assert [record.getMessage() for record in caplog.records] == [
        "Broken failed and is disabled for the rest of this run."
    ]


def test_a_sink_that_breaks_while_closing_does_not_keep_others_from_it() -> None:
    broken, good = Broken(), Memory()
    MetricsRecorder([broken, good]).close()
    assert good.is_closed


def _build(run_directory: Path, *, is_main_rank: bool = True) -> MetricsRecorder:
    return build_recorder(
        LoggingConfig(progress="off", wandb=WandbConfig(mode="disabled")),
        run_directory=run_directory,
        run_name="demo",
        run_config={},
        total_steps=3,
        resumed_step=0,
        is_main_rank=is_main_rank,
    )


def test_the_main_rank_writes_file_and_console(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recorder = _build(tmp_path)
    recorder.record_step(step_record(1))
    recorder.close()
    assert [record["step"] for record in read_records(tmp_path / "metrics.jsonl")] == [1]
    assert capsys.readouterr().out.startswith("step 1/3 | loss")
    assert not (tmp_path / "wandb").exists()


def test_other_ranks_write_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recorder = _build(tmp_path, is_main_rank=False)
    recorder.record_step(step_record(1))
    recorder.close()
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr().out == ""


def test_a_file_that_cannot_be_opened_does_not_stop_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "metrics.jsonl").mkdir()
    recorder = _build(tmp_path)
    recorder.record_step(step_record(1))
    recorder.close()
    assert "step 1/3" in capsys.readouterr().out
    assert "Failed to open a metrics sink" in caplog.text
