"""Send records to the sinks of a run; a sink that fails is dropped, and training continues."""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from trainer.config.run import LoggingConfig
from trainer.metrics.console import build_console_sink
from trainer.metrics.jsonl import FILE_NAME, JsonlSink
from trainer.metrics.record import EvaluationMetrics, RollbackMetrics, StepMetrics, ValidationMetrics
from trainer.metrics.wandb import WandbSink

_LOGGER = logging.getLogger(__name__)


class MetricsSink(Protocol):
    """Receive the records of a run."""

    def record_step(self, metrics: StepMetrics) -> None:
        """Record a training step."""
        ...

    def record_validation(self, metrics: ValidationMetrics) -> None:
        """Record a validation."""
        ...

    def record_evaluation(self, metrics: EvaluationMetrics) -> None:
        """Record the scores of the evaluation suite."""
        ...

    def record_rollback(self, metrics: RollbackMetrics) -> None:
        """Record a rollback; records of later steps will be repeated."""
        ...

    def close(self) -> None:
        """Flush and release all resources."""
        ...


class MetricsRecorder:
    """Send records to all sinks of a run; without sinks (on every rank but the main one) it does nothing."""

    def __init__(self, sinks: Sequence[MetricsSink], *, log_interval: int = 1, total_steps: int | None = None) -> None:
        """Record every `log_interval` steps, the last of `total_steps`, and every skipped step."""
        self._sinks = list(sinks)
        self._log_interval, self._total_steps = log_interval, total_steps

    def record_step(self, metrics: StepMetrics) -> None:
        """Send the record of a step to every sink, if it is due."""
        if metrics.is_skipped or metrics.step == self._total_steps or metrics.step % self._log_interval == 0:
            self._each(lambda sink: sink.record_step(metrics))

    def record_validation(self, metrics: ValidationMetrics) -> None:
        """Send the record of a validation to every sink."""
        self._each(lambda sink: sink.record_validation(metrics))

    def record_evaluation(self, metrics: EvaluationMetrics) -> None:
        """Send the scores of the evaluation suite to every sink."""
        self._each(lambda sink: sink.record_evaluation(metrics))

    def record_rollback(self, metrics: RollbackMetrics) -> None:
        """Send the record of a rollback to every sink."""
        self._each(lambda sink: sink.record_rollback(metrics))

    def close(self) -> None:
        """Close every sink; further records are dropped."""
        self._each(lambda sink: sink.close())
        self._sinks = []

    def _each(self, call: Callable[[MetricsSink], None]) -> None:
        for sink in list(self._sinks):
            try:
                call(sink)
            except Exception:
                self._sinks.remove(sink)
                _LOGGER.warning(
                    "%s failed and is disabled for the rest of this run.", type(sink).__name__, exc_info=True
                )


def build_recorder(
    config: LoggingConfig,
    *,
    run_directory: Path,
    run_name: str,
    run_config: Mapping[str, Any],
    total_steps: int,
    resumed_step: int,
    is_validation_due: bool = False,
    is_evaluation_due: bool = False,
    is_main_rank: bool,
) -> MetricsRecorder:
    """Build the recorder of this rank: console, metrics.jsonl and W&B on the main rank, nothing on the others.

    Args:
        run_config: the resolved configuration, nested as in its file, for W&B's run page.
        resumed_step: the step that training resumes from; 0 starts new curves.
        is_validation_due: whether that step will be validated (again).
        is_evaluation_due: the same for the evaluation suite.
    """
    if not is_main_rank:
        return MetricsRecorder([])
    builders: list[Callable[[], MetricsSink]] = [
        lambda: JsonlSink(
            run_directory / FILE_NAME,
            resumed_step=resumed_step,
            is_validation_due=is_validation_due,
            is_evaluation_due=is_evaluation_due,
        ),
        lambda: WandbSink(
            config.wandb,
            run_directory=run_directory,
            run_name=run_name,
            run_config=run_config,
            resumed_step=resumed_step,
        ),
        # Last, so that messages of the others appear above the bar.
        lambda: build_console_sink(config.progress, total_steps=total_steps, resumed_step=resumed_step),
    ]
    sinks: list[MetricsSink] = []
    for build in builders:
        try:
            sinks.append(build())
        except Exception:
            _LOGGER.warning("Failed to open a metrics sink; the run continues without it.", exc_info=True)
    return MetricsRecorder(sinks, log_interval=config.log_interval, total_steps=total_steps)
