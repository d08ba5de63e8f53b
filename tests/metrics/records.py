"""Records with plausible numbers for the tests of the sinks."""

import dataclasses
from typing import Any

from trainer.metrics.record import RollbackMetrics, StepMetrics, ValidationMetrics


def step_record(step: int, **changes: Any) -> StepMetrics:
    """A training record of `step`."""
    record = StepMetrics(
        step=step,
        loss=9.0 - step / 10,
        learning_rate=3e-4,
        grad_norm=1.5,
        tokens_per_second=12345.0,
        step_time_seconds=0.31,
        model_tflops_per_device=0.123,
        mfu=None,
        consumed_samples=step * 8,
        consumed_tokens=step * 8 * 128,
        memory_bytes=1 << 30,
        is_skipped=False,
        num_skipped_steps=0,
        loss_scale=None,
    )
    return dataclasses.replace(record, **changes)


def validation_record(step: int, **changes: Any) -> ValidationMetrics:
    """A validation record after `step`."""
    record = ValidationMetrics(
        step=step, loss=8.0, num_tokens=5000, consumed_samples=step * 8, consumed_tokens=step * 8 * 128
    )
    return dataclasses.replace(record, **changes)


def rollback_record(step: int, *, from_step: int) -> RollbackMetrics:
    """A rollback to `step`."""
    return RollbackMetrics(
        step=step, from_step=from_step, trouble="loss_spike", skipped_samples=[], consumed_samples=step * 8
    )
