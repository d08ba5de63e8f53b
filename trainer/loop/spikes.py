"""Detect spikes: each step's loss and gradient norm beside those before it."""

import math
import statistics
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Any, Literal

from trainer.config.run import Reaction, RecoveryConfig

CONSISTENCY = 1.4826
"""Times the median absolute deviation of a normal distribution is its standard deviation."""


@dataclass(frozen=True, kw_only=True)
class Unusual:
    """A value that is far above those before it."""

    value: float
    median: float
    """Of those before."""
    score: float
    """Robust standard deviations above the median; infinite where those before were all the same."""


def robust_z_score(value: float, *, before: Sequence[float]) -> tuple[float, float]:
    """How many robust standard deviations a value lies above the median of others.

    Median and median absolute deviation do not move when less than half of the values go astray, so a spike does not
    hide the next one.

    Args:
        before: at least one.
    Returns:
        The score, infinite where all of `before` are the same and the value is another one, and the median.
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
) -> Unusual | None:
    """Whether a value is a spike upwards.

    Args:
        before: the values that say what is usual.
        min_values: with fewer of them nothing is a spike.
        threshold: least score, in robust standard deviations.
        min_rise: least distance to the median. Late in training the deviation is so small that rises without any
            meaning have large scores.
    """
    if len(before) < min_values:
        return None
    # Told first for nearly every step, at a third of the time that the deviation takes as well.
    if value - statistics.median(before) < min_rise:
        return None
    score, median = robust_z_score(value, before=before)
    if score < threshold:
        return None
    return Unusual(value=value, median=median, score=score)


AnomalyKind = Literal["not_finite", "loss_spike", "grad_norm_spike"]


@dataclass(frozen=True, kw_only=True, slots=True)
class StepTrace:
    """What is remembered of a step."""

    step: int
    first_sample: int
    """Samples of the global order that were behind when it began."""
    loss: float | None
    """None where it was not finite."""
    grad_norm: float | None
    """None where it was not finite."""


@dataclass(frozen=True, kw_only=True)
class Anomaly:
    """AnomalyKind of several steps in a row."""

    trouble: AnomalyKind
    first: StepTrace
    """The first of these steps."""
    last: StepTrace
    reaction: Reaction
    """warn or act, by configuration."""
    unusual: Unusual | None
    """The last of a spike's steps; the logarithm of a gradient norm."""


class SpikeDetector:
    """Looks at the steps of a run, one after the other; the same on every rank, since what it sees is."""

    def __init__(self, config: RecoveryConfig, *, record: Mapping[str, Any] | None = None) -> None:
        """Go on from what `to_record` gave; None knows of no step yet."""
        self._config = config
        num_bad = max(config.spike_patience, config.max_skipped_steps)
        self._traces: deque[StepTrace] = deque(maxlen=config.spike_window + config.skip_steps_before + num_bad)
        self._rows: dict[AnomalyKind, list[StepTrace]] = {"not_finite": [], "loss_spike": [], "grad_norm_spike": []}
        # Beside the traces, so that no step has to look at all of them: 128 take a tenth of a millisecond to fetch.
        self._values: dict[AnomalyKind, deque[float | None]] = {
            trouble: deque(maxlen=config.spike_window) for trouble in ("loss_spike", "grad_norm_spike")
        }
        if record is not None:
            for values in record["steps"]:
                self._remember(_trace(values))
            known = {trace.step: trace for trace in self._traces}
            for trouble in self._rows:
                self._rows[trouble] = [known[step] for step in record["rows"][trouble] if step in known]

    def observe(self, trace: StepTrace, *, is_broken: bool) -> Anomaly | None:
        """Take one step; what is wrong, in the step in which it has lasted long enough.

        Args:
            is_broken: its update was left out for a reason that is not the search for a loss scale.
        """
        config = self._config
        findings = [
            self._extend("not_finite", trace, is_bad=is_broken, patience=config.max_skipped_steps, reaction="act"),
            *(self._judge_value(trouble, trace) for trouble in ("loss_spike", "grad_norm_spike")),
        ]
        self._remember(trace)
        found = [finding for finding in findings if finding is not None]
        return next((finding for finding in found if finding.reaction == "act"), found[0] if found else None)

    def _remember(self, trace: StepTrace) -> None:
        self._traces.append(trace)
        for trouble, values in self._values.items():
            values.append(_value(trouble, trace))

    def since(self, step: int) -> list[StepTrace]:
        """What is remembered of the steps after `step`, the oldest first."""
        return [trace for trace in self._traces if trace.step > step]

    def start_of(self, finding: Anomaly) -> StepTrace:
        """The first step whose samples are implicated, or the oldest one that is remembered."""
        start = finding.first.step - self._config.skip_steps_before
        return next((trace for trace in self._traces if trace.step >= start), finding.first)

    def to_record(self) -> dict[str, Any]:
        """Turn into plain values that JSON can hold."""
        return {
            "steps": [list(astuple(trace)) for trace in self._traces],
            "rows": {trouble: [trace.step for trace in row] for trouble, row in self._rows.items()},
        }

    def _judge_value(self, trouble: AnomalyKind, trace: StepTrace) -> Anomaly | None:
        config = self._config
        reaction = config.loss_spike if trouble == "loss_spike" else config.grad_norm_spike
        value = _value(trouble, trace)
        if reaction == "off" or value is None:  # a step without a value neither ends a row nor goes on with it
            return None
        unusual = find_spike(
            value,
            before=[other for other in self._values[trouble] if other is not None],
            min_values=max(2, config.spike_window // 2),
            threshold=config.spike_threshold,
            min_rise=config.spike_min_rise,
        )
        return self._extend(
            trouble,
            trace,
            is_bad=unusual is not None,
            patience=config.spike_patience,
            reaction=reaction,
            unusual=unusual,
        )

    def _extend(
        self,
        trouble: AnomalyKind,
        trace: StepTrace,
        *,
        is_bad: bool,
        patience: int,
        reaction: Reaction,
        unusual: Unusual | None = None,
    ) -> Anomaly | None:
        row = self._rows[trouble]
        if not is_bad:
            row.clear()
            return None
        # The row is not kept beyond its length: told once, trouble that lasts is not told in every step.
        if len(row) < patience:
            row.append(trace)
            if len(row) == patience:
                return Anomaly(trouble=trouble, first=row[0], last=trace, reaction=reaction, unusual=unusual)
        return None


def trace_step(*, step: int, first_sample: int, loss: float, grad_norm: float) -> StepTrace:
    """Remember a step."""
    return StepTrace(step=step, first_sample=first_sample, loss=_finite(loss), grad_norm=_finite(grad_norm))


def _value(trouble: AnomalyKind, trace: StepTrace) -> float | None:
    if trouble == "loss_spike":
        return trace.loss
    return math.log(trace.grad_norm) if trace.grad_norm else None


def _trace(values: list[Any]) -> StepTrace:
    step, first_sample, loss, grad_norm = values
    return StepTrace(step=step, first_sample=first_sample, loss=loss, grad_norm=grad_norm)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
