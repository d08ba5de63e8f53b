"""Detect spikes: compare each step's loss and gradient norm with those of the steps before it."""

import math
import statistics
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Any, Literal

from trainer.config.run import AnomalyAction, RecoveryConfig

CONSISTENCY = 1.4826
"""Factor from the median absolute deviation of a normal distribution to its standard deviation."""


@dataclass(frozen=True, kw_only=True)
class Outlier:
    """Hold a value that is far above those before it."""

    value: float
    median: float
    """Of the values before it."""
    score: float
    """Robust standard deviations above the median; infinite where all values before it are equal."""


def robust_z_score(value: float, *, before: Sequence[float]) -> tuple[float, float]:
    """Return how many robust standard deviations a value is above the median of others.

    Median and median absolute deviation do not change while less than half of the values are outliers, so a spike does
    not hide the next one.

    Args:
        before: at least one.
    Returns:
        The score, infinite where all of `before` are equal and the value differs, and the median.
    Source: the modified z-score of Iglewicz and Hoaglin, How to Detect and Handle Outliers, 1993.
    """
    median = statistics.median(before)
    deviation = CONSISTENCY * statistics.median(abs(other - median) for other in before)
    rise = value - median
    if rise == 0:
        return 0.0, median
    return (rise / deviation if deviation > 0 else float("inf") * rise), median


def find_spike(
    value: float, *, before: Sequence[float], min_values: int, threshold: float, min_rise: float
) -> Outlier | None:
    """Return a value as an outlier if it is a spike upwards, else None.

    Args:
        before: the values that it is compared with.
        min_values: with fewer of them nothing is a spike.
        threshold: lowest score of a spike, in robust standard deviations.
        min_rise: smallest distance to the median. Late in training the deviation is so small that insignificant rises
            have large scores.
    """
    if len(before) < min_values:
        return None
    # Decides nearly every step, at a third of the time that it takes with the deviation.
    if value - statistics.median(before) < min_rise:
        return None
    score, median = robust_z_score(value, before=before)
    if score < threshold:
        return None
    return Outlier(value=value, median=median, score=score)


AnomalyKind = Literal["not_finite", "loss_spike", "grad_norm_spike"]


@dataclass(frozen=True, kw_only=True, slots=True)
class StepTrace:
    """Hold what the detector remembers of a step."""

    step: int
    first_sample: int
    """Number of samples consumed before it."""
    loss: float | None
    """None where it was not finite."""
    grad_norm: float | None
    """None where it was not finite."""


@dataclass(frozen=True, kw_only=True)
class Anomaly:
    """Hold an anomaly of several steps in a row."""

    kind: AnomalyKind
    first: StepTrace
    """The first of these steps."""
    last: StepTrace
    action: AnomalyAction
    """warn or act, by configuration."""
    outlier: Outlier | None
    """The value of a spike's last step; of a gradient norm, its logarithm."""


class SpikeDetector:
    """Check the steps of a run, one after the other; all ranks see the same values and find the same anomalies."""

    def __init__(self, config: RecoveryConfig, *, record: Mapping[str, Any] | None = None) -> None:
        """Restore the history that `to_record` returned; None starts without history."""
        self._config = config
        num_bad = max(config.spike_patience, config.max_skipped_steps)
        self._traces: deque[StepTrace] = deque(maxlen=config.spike_window + config.skip_steps_before + num_bad)
        self._rows: dict[AnomalyKind, list[StepTrace]] = {"not_finite": [], "loss_spike": [], "grad_norm_spike": []}
        # Kept next to the traces, so that no step has to read all of them: 128 take a tenth of a millisecond.
        self._values: dict[AnomalyKind, deque[float | None]] = {
            kind: deque(maxlen=config.spike_window) for kind in ("loss_spike", "grad_norm_spike")
        }
        if record is not None:
            for values in record["steps"]:
                self._remember(_trace(values))
            known = {trace.step: trace for trace in self._traces}
            for kind in self._rows:
                self._rows[kind] = [known[step] for step in record["rows"][kind] if step in known]

    def observe(self, trace: StepTrace, *, is_broken: bool) -> Anomaly | None:
        """Check one step; return an anomaly in the step in which it has lasted long enough.

        Args:
            is_broken: its update was skipped for another reason than the search for a loss scale.
        """
        config = self._config
        anomalies = [
            self._extend("not_finite", trace, is_bad=is_broken, patience=config.max_skipped_steps, action="act"),
            *(self._check_value(kind, trace) for kind in ("loss_spike", "grad_norm_spike")),
        ]
        self._remember(trace)
        found = [anomaly for anomaly in anomalies if anomaly is not None]
        return next((anomaly for anomaly in found if anomaly.action == "act"), found[0] if found else None)

    def _remember(self, trace: StepTrace) -> None:
        self._traces.append(trace)
        for kind, values in self._values.items():
            values.append(_value(kind, trace))

    def since(self, step: int) -> list[StepTrace]:
        """Return the remembered steps after `step`, the oldest first."""
        return [trace for trace in self._traces if trace.step > step]

    def start_of(self, anomaly: Anomaly) -> StepTrace:
        """Return the first step whose samples may have caused the anomaly, or the oldest remembered one."""
        start = anomaly.first.step - self._config.skip_steps_before
        return next((trace for trace in self._traces if trace.step >= start), anomaly.first)

    def to_record(self) -> dict[str, Any]:
        """Return the history as plain values that JSON can hold."""
        return {
            "steps": [list(astuple(trace)) for trace in self._traces],
            "rows": {kind: [trace.step for trace in row] for kind, row in self._rows.items()},
        }

    def _check_value(self, kind: AnomalyKind, trace: StepTrace) -> Anomaly | None:
        config = self._config
        action = config.loss_spike if kind == "loss_spike" else config.grad_norm_spike
        value = _value(kind, trace)
        if action == "off" or value is None:  # a step without a value neither ends a row nor extends it
            return None
        outlier = find_spike(
            value,
            before=[other for other in self._values[kind] if other is not None],
            min_values=max(2, config.spike_window // 2),
            threshold=config.spike_threshold,
            min_rise=config.spike_min_rise,
        )
        return self._extend(
            kind,
            trace,
            is_bad=outlier is not None,
            patience=config.spike_patience,
            action=action,
            outlier=outlier,
        )

    def _extend(
        self,
        kind: AnomalyKind,
        trace: StepTrace,
        *,
        is_bad: bool,
        patience: int,
        action: AnomalyAction,
        outlier: Outlier | None = None,
    ) -> Anomaly | None:
        row = self._rows[kind]
        if not is_bad:
            row.clear()
            return None
        # The row is not extended beyond its length: an anomaly that lasts is reported once, not in every step.
        if len(row) < patience:
            row.append(trace)
            if len(row) == patience:
                return Anomaly(kind=kind, first=row[0], last=trace, action=action, outlier=outlier)
        return None


def trace_step(*, step: int, first_sample: int, loss: float, grad_norm: float) -> StepTrace:
    """Build the trace of a step, without values that are not finite."""
    return StepTrace(step=step, first_sample=first_sample, loss=_finite(loss), grad_norm=_finite(grad_norm))


def _value(kind: AnomalyKind, trace: StepTrace) -> float | None:
    if kind == "loss_spike":
        return trace.loss
    return math.log(trace.grad_norm) if trace.grad_norm else None


def _trace(values: list[Any]) -> StepTrace:
    step, first_sample, loss, grad_norm = values
    return StepTrace(step=step, first_sample=first_sample, loss=loss, grad_norm=grad_norm)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
