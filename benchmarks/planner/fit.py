"""Fit the planner's coefficients to published runs, and write them to a file.

usage: python -m benchmarks.planner.fit [CSV] [OUTPUT]

CSV is the table of published runs (default: benchmarks/planner/data/published_throughput.csv). OUTPUT is the file of
coefficients that the planner reads (default: launch/plan/data/coefficients.yaml).

The residuals are the logarithms of predicted over published figures, with a soft L1 loss, which grows linearly for
outliers, and each coefficient's distance from its prior. Memory is also fitted to runs without a memory figure: a
prediction above the memory of a device on which the run is known to fit adds to the loss, one below does not.
"""

import dataclasses
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import yaml  # type: ignore[import-untyped]
from scipy.optimize import least_squares

from benchmarks.planner.published import PUBLISHED_CSV, PublishedRun, load_published
from launch.plan.coefficients import (
    COEFFICIENTS_FILE,
    EFFICIENCY_OF,
    Coefficients,
    MemoryRates,
    RateLookup,
    Rates,
    memory_names_of,
    names_of,
    prior_of,
    upper_bound_of,
)
from launch.plan.hardware import load_devices
from launch.plan.job import Array, TrainingJob, stack
from launch.plan.memory import predict_peak_memory
from launch.plan.step_time import predict_step_time

TIME_NOISE = 0.08
"""Standard deviation of the logarithm of published step times, as observed between repeated rows of one table."""
MEMORY_NOISE = 0.05
BOUND_DEVIATION = 0.02
"""Excess of a rate over its bound, as a logarithm, that counts as one standard deviation."""
FULL_SHARE = 0.97
"""Share of a device's memory that a run can use at most, if it is known to fit."""
_ITERATIONS = 30


class TimeModel:
    """Predict the step times of runs from the logarithms of coefficients."""

    def __init__(self, runs: Sequence[PublishedRun]) -> None:
        """Look up the coefficients of the runs."""
        self.job = stack([run.job for run in runs])
        self.lookup = RateLookup(Rates, [_time_names(run) for run in runs])
        efficiency = np.array([load_devices()[run.device].efficiency for run in runs])
        self._scale = dict.fromkeys(EFFICIENCY_OF, efficiency)

    def log_seconds(self, coefficients: dict[str, float]) -> Array:
        """Predict from named coefficients [n]; missing ones have the centers of their priors."""
        return self.predict(_vector(coefficients, self.lookup.names))

    def predict(self, logarithms: Array) -> Array:
        """Return the logarithms of predicted seconds: [n]."""
        return np.asarray(np.log(predict_step_time(self.job, self._rates(logarithms)).total))

    def excess(self, logarithms: Array) -> Array:
        """Return the excess of rates over their upper bounds, as logarithms: one figure per bounded kind of rate."""
        rates = self.lookup.rates(logarithms)
        bounds = {name: upper_bound_of(name) for name in vars(rates)}
        over = [np.log(np.max(vars(rates)[name]) / bound) for name, bound in bounds.items() if np.isfinite(bound)]
        return np.maximum(np.array(over), 0)

    def _rates(self, logarithms: Array) -> Rates:
        values = vars(self.lookup.rates(logarithms))
        return Rates(
            **{
                name: np.minimum(value * self._scale.get(name, 1.0), upper_bound_of(name))
                for name, value in values.items()
            }
        )


class MemoryModel:
    """Predict the memory of runs from the logarithms of coefficients."""

    def __init__(self, runs: Sequence[PublishedRun], *, job: TrainingJob | None = None) -> None:
        """Look up the coefficients of the runs; job replaces their jobs."""
        self.job = stack([run.job for run in runs]) if job is None else job
        self.lookup = RateLookup(MemoryRates, [_memory_names(run) for run in runs])

    def log_bytes(self, coefficients: dict[str, float]) -> Array:
        """Predict from named coefficients [n]; missing ones have the centers of their priors."""
        return self.predict(_vector(coefficients, self.lookup.names))

    def predict(self, logarithms: Array) -> Array:
        """Return the logarithms of predicted bytes: [n]."""
        return np.asarray(np.log(predict_peak_memory(self.job, self.lookup.rates(logarithms)).total))


def fit_step_time(runs: Sequence[PublishedRun]) -> dict[str, float]:
    """Fit the coefficients of the time model.

    Args:
        runs: those without a step time are ignored.
    Returns:
        Coefficients by name.
    """
    timed = [run for run in runs if run.seconds is not None and not run.is_out_of_memory]
    model = TimeModel(timed)
    published = np.log([run.seconds for run in timed if run.seconds is not None])
    weights = source_weights(timed)

    def residuals(logarithms: Array) -> Array:
        errors = _robust((model.predict(logarithms) - published) / TIME_NOISE)
        return np.concatenate([errors * weights, model.excess(logarithms) / BOUND_DEVIATION])

    return _fit(model.lookup.names, residuals)


def source_weights(runs: Sequence[PublishedRun]) -> Array:
    """Return weights of residuals [n]: n correlated rows of one source count as the square root of n."""
    counts = Counter(run.source for run in runs)
    return np.array([counts[run.source] ** -0.25 for run in runs])


def fit_memory(runs: Sequence[PublishedRun]) -> dict[str, float]:
    """Fit the coefficients of the memory model.

    Args:
        runs: used are those with a memory figure, and those that are known to fit and state their recomputation.
    Returns:
        Coefficients by name.
    """
    used = [run for run in runs if run.memory_bytes or (run.states_recompute and not run.is_out_of_memory)]
    model = MemoryModel(used)
    is_measured = np.array([run.memory_bytes is not None for run in used])
    limits = np.log([run.memory_bytes or FULL_SHARE * float(run.job.machine.memory_bytes) for run in used])

    def residuals(logarithms: Array) -> Array:
        over = (model.predict(logarithms) - limits) / MEMORY_NOISE
        return _robust(np.where(is_measured, over, 0.5 * np.maximum(over, 0)))

    return _fit(model.lookup.names, residuals)


def _fit(names: Sequence[str], residuals: Callable[[Array], Array]) -> dict[str, float]:
    """Return the most probable coefficients, given residuals in standard deviations and the priors."""
    priors = [prior_of(name) for name in names]
    centre = np.log([prior.centre for prior in priors])
    deviation = np.array([prior.log_deviation for prior in priors])
    solution = least_squares(
        lambda logarithms: np.concatenate([residuals(logarithms), (logarithms - centre) / deviation]),
        centre,
        max_nfev=_ITERATIONS,
        ftol=1e-5,
        xtol=1e-4,
    )
    return dict(zip(names, np.exp(solution.x).tolist(), strict=True))


def _robust(residuals: Array) -> Array:
    """Return residuals whose squares are the soft L1 loss."""
    loss = np.sign(residuals) * np.sqrt(2 * (np.sqrt(1 + residuals**2) - 1))
    return np.asarray(loss)


def _vector(coefficients: dict[str, float], names: Sequence[str]) -> Array:
    return np.log([coefficients.get(name, prior_of(name).centre) for name in names])


def _time_names(run: PublishedRun) -> dict[str, tuple[str, ...]]:
    return names_of(device=run.device, number_format=run.number_format, framework=run.framework)


def _memory_names(run: PublishedRun) -> dict[str, tuple[str, ...]]:
    return memory_names_of(framework=run.framework, sees_device=run.sees_device)


def fit_coefficients(runs: Sequence[PublishedRun]) -> Coefficients:
    """Fit both models."""
    timed = [run for run in runs if run.seconds is not None and not run.is_out_of_memory]
    counts = Counter(f"{run.device}.{run.number_format}.{run.kind.split()[0]}" for run in timed)
    return Coefficients(
        step_time=fit_step_time(runs),
        memory=fit_memory(runs),
        runs=dict(counts),
        sources=sorted({run.source for run in runs}),
    )


def write_coefficients(path: Path, runs: Sequence[PublishedRun]) -> None:
    """Fit both models and write the file that the planner reads."""
    fitted = dataclasses.asdict(fit_coefficients(runs))
    num_measured = sum(run.memory_bytes is not None for run in runs)
    head = (
        "# Coefficients of the planner, written by `python -m benchmarks.planner.fit`; do not edit.\n"
        f"# Fitted on {sum(fitted['runs'].values())} published step times and {num_measured} memory figures of"
        f" {len(fitted['sources'])} sources.\n"
        "# Meanings and priors: launch/plan/coefficients.py.\n"
    )
    for part in ("step_time", "memory"):
        fitted[part] = {name: float(f"{value:.4g}") for name, value in fitted[part].items()}
    path.write_text(head + yaml.safe_dump(fitted, sort_keys=True), encoding="utf-8")


def main() -> int:
    """Run the command."""
    arguments = sys.argv[1:]
    if arguments and arguments[0] in ("-h", "--help"):
        sys.stdout.write((__doc__ or "").lstrip())
        return 0
    table = Path(arguments[0]) if arguments else PUBLISHED_CSV
    output = Path(arguments[1]) if len(arguments) > 1 else COEFFICIENTS_FILE
    runs, _ = load_published(table)
    write_coefficients(output, runs)
    sys.stdout.write(f"{output}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
