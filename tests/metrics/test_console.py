"""What a person reads while a run goes on."""

import io
import math

import pytest
from rich.console import Console

from tests.metrics.records import step_record, validation_record
from trainer.metrics.console import (
    BarConsoleSink,
    PlainConsoleSink,
    build_console_sink,
    step_line,
    validation_line,
)


def test_plain_lines_are_aligned_and_complete(capsys: pytest.CaptureFixture[str]) -> None:
    sink = PlainConsoleSink(total_steps=1000)
    sink.record_step(step_record(1))
    sink.record_step(step_record(1000, loss=11.25, grad_norm=123.4567, tokens_per_second=999.0, mfu=0.41))
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith(
        "step    1/1000 | loss   8.9000 | lr 3.000e-04 | grad norm    1.500 |   0.310 s | 12.3k tok/s"
    )
    assert second.startswith("step 1000/1000 | loss  11.2500 | lr 3.000e-04 | grad norm  123.457 |")
    assert "MFU  41.0%" in second and "MFU" not in first
    assert [i for i, c in enumerate(first) if c == "|"][:7] == [i for i, c in enumerate(second) if c == "|"][:7]


def test_a_validation_shows_loss_and_perplexity() -> None:
    line = validation_line(validation_record(20, loss=math.log(50)), total_steps=100)
    assert line == "step  20/100 | validation loss   3.9120 | perplexity      50.00 | 5.00k tokens"


def test_a_skipped_step_is_marked() -> None:
    assert "SKIPPED" in step_line(step_record(3, loss=float("nan"), is_skipped=True), total_steps=10)


def test_the_loss_scale_of_fp16_is_shown() -> None:
    assert "loss scale" not in step_line(step_record(3), total_steps=10)
    assert step_line(step_record(3, loss_scale=65536.0), total_steps=10).endswith(" | loss scale 65536")


def test_the_bar_shows_figures_and_keeps_validations() -> None:
    screen = io.StringIO()
    sink = BarConsoleSink(
        total_steps=20, resumed_step=5, console=Console(file=screen, force_terminal=True, width=120, color_system=None)
    )
    sink.record_step(step_record(6))
    sink.record_validation(validation_record(6))
    sink.close()
    assert "step 6/20" in screen.getvalue()
    assert "loss 8.4000 lr 3.00e-04 12.3k tok/s" in screen.getvalue()
    assert "validation loss   8.0000" in screen.getvalue()


def test_output_that_is_no_terminal_gets_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    assert isinstance(build_console_sink("auto", total_steps=10, resumed_step=0), PlainConsoleSink)
    bar = build_console_sink("on", total_steps=10, resumed_step=0)
    bar.close()
    assert isinstance(bar, BarConsoleSink)
