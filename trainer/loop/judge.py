"""Judges each step by its loss and gradient norm, beside those before it. What it remembers goes into checkpoints."""

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import astuple, dataclass
from typing import Any, Literal

from trainer.config.recovery import Reaction, RecoveryConfig
from trainer.loop.spike import Unusual, find_spike

Trouble = Literal["not_finite", "loss_spike", "grad_norm_spike"]


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
class Finding:
    """Trouble of several steps in a row."""

    trouble: Trouble
    first: StepTrace
    """The first of these steps."""
    last: StepTrace
    reaction: Reaction
    """warn or act, by configuration."""
    unusual: Unusual | None
    """The last of a spike's steps; the logarithm of a gradient norm."""


class Judge:
    """Looks at the steps of a run, one after the other; the same on every rank, since what it sees is."""

    def __init__(self, config: RecoveryConfig, *, record: Mapping[str, Any] | None = None) -> None:
        """Go on from what `to_record` gave; None knows of no step yet."""
        self._config = config
        num_bad = max(config.spike_patience, config.max_skipped_steps)
        self._traces: deque[StepTrace] = deque(maxlen=config.spike_window + config.skip_steps_before + num_bad)
        self._rows: dict[Trouble, list[StepTrace]] = {"not_finite": [], "loss_spike": [], "grad_norm_spike": []}
        # Beside the traces, so that no step has to look at all of them: 128 take a tenth of a millisecond to fetch.
        self._values: dict[Trouble, deque[float | None]] = {
            trouble: deque(maxlen=config.spike_window) for trouble in ("loss_spike", "grad_norm_spike")
        }
        if record is not None:
            for values in record["steps"]:
                self._remember(_trace(values))
            known = {trace.step: trace for trace in self._traces}
            for trouble in self._rows:
                self._rows[trouble] = [known[step] for step in record["rows"][trouble] if step in known]

    def observe(self, trace: StepTrace, *, is_broken: bool) -> Finding | None:
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

    def start_of(self, finding: Finding) -> StepTrace:
        """The first step whose samples are implicated, or the oldest one that is remembered."""
        start = finding.first.step - self._config.skip_steps_before
        return next((trace for trace in self._traces if trace.step >= start), finding.first)

    def to_record(self) -> dict[str, Any]:
        """Turn into plain values that JSON can hold."""
        return {
            "steps": [list(astuple(trace)) for trace in self._traces],
            "rows": {trouble: [trace.step for trace in row] for trouble, row in self._rows.items()},
        }

    def _judge_value(self, trouble: Trouble, trace: StepTrace) -> Finding | None:
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
        trouble: Trouble,
        trace: StepTrace,
        *,
        is_bad: bool,
        patience: int,
        reaction: Reaction,
        unusual: Unusual | None = None,
    ) -> Finding | None:
        row = self._rows[trouble]
        if not is_bad:
            row.clear()
            return None
        # The row is not kept beyond its length: told once, trouble that lasts is not told in every step.
        if len(row) < patience:
            row.append(trace)
            if len(row) == patience:
                return Finding(trouble=trouble, first=row[0], last=trace, reaction=reaction, unusual=unusual)
        return None


def trace_step(*, step: int, first_sample: int, loss: float, grad_norm: float) -> StepTrace:
    """Remember a step."""
    return StepTrace(step=step, first_sample=first_sample, loss=_finite(loss), grad_norm=_finite(grad_norm))


def _value(trouble: Trouble, trace: StepTrace) -> float | None:
    if trouble == "loss_spike":
        return trace.loss
    return math.log(trace.grad_norm) if trace.grad_norm else None


def _trace(values: list[Any]) -> StepTrace:
    step, first_sample, loss, grad_norm = values
    return StepTrace(step=step, first_sample=first_sample, loss=loss, grad_norm=grad_norm)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
