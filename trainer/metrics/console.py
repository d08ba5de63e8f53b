"""Show metrics on the console: a progress bar on a terminal, one aligned line per record elsewhere."""

import sys
from typing import Literal

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from trainer.metrics.record import EvaluationMetrics, RollbackMetrics, StepMetrics, ValidationMetrics
from trireme.progress import format_bytes, format_count, should_draw_bar


class PlainConsoleSink:
    """Write one line per record to stdout."""

    def __init__(self, *, total_steps: int) -> None:
        self._total_steps = total_steps

    def record_step(self, metrics: StepMetrics) -> None:
        """Write one line."""
        _write(step_line(metrics, total_steps=self._total_steps))

    def record_validation(self, metrics: ValidationMetrics) -> None:
        """Write one line."""
        _write(validation_line(metrics, total_steps=self._total_steps))

    def record_evaluation(self, metrics: EvaluationMetrics) -> None:
        """Write one line."""
        _write(evaluation_line(metrics, total_steps=self._total_steps))

    def record_rollback(self, metrics: RollbackMetrics) -> None:
        """Write one line."""
        _write(rollback_line(metrics, total_steps=self._total_steps))

    def close(self) -> None:
        """Do nothing: no resource is held."""


class BarConsoleSink:
    """Show a progress bar with the latest metrics; validations stay as lines above it."""

    def __init__(self, *, total_steps: int, resumed_step: int, console: Console | None = None) -> None:
        self._total_steps = total_steps
        self._progress = Progress(
            TextColumn("step {task.completed:.0f}/{task.total:.0f}"),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[figures]}"),
            TimeRemainingColumn(compact=True),
            console=console or Console(force_terminal=True),
        )
        self._task = self._progress.add_task("train", total=total_steps, completed=resumed_step, figures="")
        self._progress.start()

    def record_step(self, metrics: StepMetrics) -> None:
        """Update the bar; a skipped step leaves a line above it."""
        figures = (
            f"loss {metrics.loss:.4f} lr {metrics.learning_rate:.2e} {format_count(metrics.tokens_per_second)} tok/s"
        )
        self._progress.update(self._task, completed=metrics.step, figures=figures)
        if metrics.is_skipped:
            self._line(step_line(metrics, total_steps=self._total_steps))

    def record_validation(self, metrics: ValidationMetrics) -> None:
        """Leave one line above the bar."""
        self._line(validation_line(metrics, total_steps=self._total_steps))

    def record_evaluation(self, metrics: EvaluationMetrics) -> None:
        """Leave one line above the bar."""
        self._line(evaluation_line(metrics, total_steps=self._total_steps))

    def record_rollback(self, metrics: RollbackMetrics) -> None:
        """Move the bar back and leave one line above it."""
        self._progress.update(self._task, completed=metrics.step)
        self._line(rollback_line(metrics, total_steps=self._total_steps))

    def close(self) -> None:
        """Stop the bar, which stays visible."""
        self._progress.stop()

    def _line(self, text: str) -> None:
        self._progress.console.print(text, highlight=False, markup=False, soft_wrap=True)


def build_console_sink(
    mode: Literal["auto", "on", "off"], *, total_steps: int, resumed_step: int
) -> PlainConsoleSink | BarConsoleSink:
    """Build the progress bar if `mode` and stdout allow it, else plain lines."""
    if should_draw_bar(mode, stream=sys.stdout):
        return BarConsoleSink(total_steps=total_steps, resumed_step=resumed_step)
    return PlainConsoleSink(total_steps=total_steps)


def step_line(metrics: StepMetrics, *, total_steps: int) -> str:
    """Format all metrics of a step as one line, in columns."""
    mfu = f" | MFU {metrics.mfu:6.1%}" if metrics.mfu is not None else ""
    scale = f" | loss scale {metrics.loss_scale:.0f}" if metrics.loss_scale is not None else ""
    load = ""
    if metrics.routing:
        load = f" | expert load up to {max(layer.max_load_ratio for layer in metrics.routing):5.2f}x"
    skipped = " | SKIPPED: gradient not finite" if metrics.is_skipped else ""
    return (
        f"{_step(metrics.step, total_steps)} | loss {metrics.loss:8.4f} | lr {metrics.learning_rate:.3e}"
        f" | grad norm {metrics.grad_norm:8.3f} | {metrics.step_time_seconds:7.3f} s"
        f" | {format_count(metrics.tokens_per_second):>5} tok/s | {metrics.model_tflops_per_device:8.3f} TFLOP/s{mfu}"
        f" | {format_bytes(metrics.memory_bytes):>8}{load}{scale}{skipped}"
    )


def validation_line(metrics: ValidationMetrics, *, total_steps: int) -> str:
    """Format loss, and perplexity or scores, of a validation as one line, in the columns of the step lines."""
    start = f"{_step(metrics.step, total_steps)} | validation loss {metrics.loss:8.4f}"
    scores = "".join(f" | {name.replace('_', ' ')} {value:.4f}" for name, value in metrics.scores.items())
    if not metrics.is_of_tokens:
        return f"{start}{scores}"
    return f"{start} | perplexity {metrics.perplexity:10,.2f} | {format_count(metrics.num_tokens)} tokens{scores}"


def evaluation_line(metrics: EvaluationMetrics, *, total_steps: int) -> str:
    """Format the accuracies of the evaluation suite and its duration as one line, in the columns of the step lines."""
    accuracies = {name.removesuffix("_acc"): value for name, value in metrics.scores.items() if name.endswith("_acc")}
    scores = "".join(f" | {name} {value:.3f}" for name, value in accuracies.items())
    return f"{_step(metrics.step, total_steps)} | evaluation {metrics.seconds:.1f} s{scores}"


def rollback_line(metrics: RollbackMetrics, *, total_steps: int) -> str:
    """Format a rollback as one line, in the columns of the step lines."""
    return (
        f"{_step(metrics.step, total_steps)} | ROLLED BACK from step {metrics.from_step}: {metrics.trouble}"
        f" | {format_count(metrics.num_skipped_samples)} samples skipped"
    )


def _step(step: int, total_steps: int) -> str:
    width = len(str(total_steps))
    return f"step {step:>{width}}/{total_steps}"


def _write(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
