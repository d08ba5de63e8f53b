"""Validate the planner: compare its predictions with published runs of held-out sources.

usage: python -m benchmarks.planner.validate [CSV] [--coefficients] [--json FILE] [--publish]

The default table is benchmarks/planner/data/published_throughput.csv. Each row is predicted by coefficients that are
fitted without it, by two schemes of cross-validation:

  source     hold out all rows of the row's source: the error to expect for a new table
  publisher  hold out all sources of its project: the error to expect for a new project and cluster

CSV is any table with the same columns (data/published_throughput.README.md). Its rows are predicted by coefficients
that are fitted to the default table without the sources in CSV. With --coefficients, they are predicted by the shipped
coefficients instead, and the report counts the rows whose sources are in their fit.

The report shows the median and the 90th percentile of the absolute errors of step time and memory, by source and by
kind of parallelism; the rank correlation of predicted and published throughput within sweeps of layouts; published runs
that are predicted not to fit; and skipped rows with their reasons. --json also writes it to FILE. --publish updates the
error bars that plans show (default table only).
"""

import dataclasses
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.planner.error_bars import ErrorBar, error_bar, error_bars, parallel_kind, sweeps
from benchmarks.planner.fit import MemoryModel, TimeModel, fit_memory, fit_step_time
from benchmarks.planner.published import PUBLISHED_CSV, PublishedRun, load_published
from launch.plan.coefficients import Coefficients, load_coefficients
from launch.plan.job import Array, TrainingJob, stack
from launch.plan.plan import ERROR_BARS_FILE
from launch.plan.table import open_console
from trireme.errors import ConfigError, Violation, exit_code_of

SCHEMES: dict[str, Callable[[PublishedRun], str]] = {
    "source": lambda run: run.source,
    "publisher": lambda run: run.publisher,
}
"""Key of the rows that are held out together, by scheme."""
GOALS = {
    "dense 16-bit step time, median": 5.0,
    "dense 16-bit step time, 90th percentile": 15.0,
    "dense fp8/fp4 step time, median": 8.0,
    "dense fp8/fp4 step time, 90th percentile": 18.0,
    "moe step time, median": 10.0,
    "moe step time, 90th percentile": 25.0,
    "memory, median": 8.0,
    "memory, 90th percentile": 20.0,
    "published as running, predicted to exceed memory by more than 10%": 0.0,
    "published as out of memory, predicted to fit": 0.0,
}
"""Upper limits, in percent or number of runs."""
MIN_SPEARMAN = 0.85


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """Hold the predictions of one scheme, each by coefficients that were fitted without its row."""

    timed: list[PublishedRun]
    log_seconds: Array
    """Predictions: [timed]."""
    all_runs: list[PublishedRun]
    log_bytes: Array
    """Predictions with recomputation as stated, without it if it is not stated: [all_runs]."""
    log_least_bytes: Array
    """The same, with full recomputation if a source does not state it: [all_runs]."""


def main() -> int:
    """Run the command."""
    return exit_code_of(lambda: run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Read the table, compute the errors, print the report."""
    if "-h" in arguments or "--help" in arguments:
        sys.stdout.write((__doc__ or "").lstrip())
        return 0
    request = _read_arguments(arguments)
    runs, skipped = load_published(request.table)
    report: dict[str, Any] = {"command": "python -m benchmarks.planner.validate", "schemes": {}}
    if request.is_foreign or request.uses_shipped:
        scheme = "coefficients" if request.uses_shipped else "table"
        coefficients = load_coefficients() if request.uses_shipped else fit_without(runs)
        report["schemes"][scheme] = judge(predict_all(runs, coefficients))
        report["rows whose sources are in the fit"] = sum(each.source in coefficients.sources for each in runs)
    else:
        for scheme in SCHEMES:
            report["schemes"][scheme] = judge(hold_out(runs, scheme=scheme))
    report["goals"] = check_goals(next(iter(report["schemes"].values())))
    reasons = [each.reason for each in skipped]
    untimed = sum(each.seconds is None and not each.is_out_of_memory for each in runs)
    report["rows"] = {
        "compared": len(runs),
        "of them without step time: TFLOP/s without a convention": untimed,
        **{f"skipped, {reason}": reasons.count(reason) for reason in sorted(set(reasons))},
    }
    print_report(report, open_console())
    if request.output:
        request.output.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    if request.publishes:
        ERROR_BARS_FILE.write_text(json.dumps(_summary(report), indent=1) + "\n", encoding="utf-8")
    return 0


@dataclass(frozen=True, kw_only=True)
class Request:
    """Hold a parsed command line."""

    table: Path
    output: Path | None
    uses_shipped: bool
    """Whether to predict by the shipped coefficients."""
    publishes: bool

    @property
    def is_foreign(self) -> bool:
        """Return whether the table is not the default one."""
        return self.table.resolve() != PUBLISHED_CSV.resolve()


def _read_arguments(arguments: Sequence[str]) -> Request:
    words = list(arguments)
    flags = {name: name in words for name in ("--publish", "--coefficients")}
    words = [word for word in words if word not in flags]
    output, problems = None, []
    if "--json" in words:
        place = words.index("--json")
        output = Path(words[place + 1]) if place + 1 < len(words) else Path()
        del words[place : place + 2]
        if output.is_dir() or not output.absolute().parent.is_dir():
            fix = "Write --json FILE, with FILE in a directory that exists."
            problems.append(Violation(path="--json", value=output, message="cannot write this file", fix=fix))
    for word in [word for word in words if word.startswith("-")]:
        fix = "Use --coefficients, --json FILE or --publish."
        problems.append(Violation(path=word, value="", message="unknown option", fix=fix))
    tables = [word for word in words if not word.startswith("-")]
    table = Path(tables[0]) if tables else PUBLISHED_CSV
    if len(tables) > 1 or not table.is_file():
        rule = "expected one table" if len(tables) > 1 else "no such file"
        fix = f"Use one file like {PUBLISHED_CSV}."
        problems.append(Violation(path="CSV", value=" ".join(tables) or str(table), message=rule, fix=fix))
    if problems:
        raise ConfigError(problems)
    request = Request(table=table, output=output, uses_shipped=flags["--coefficients"], publishes=flags["--publish"])
    if request.publishes and (request.is_foreign or request.uses_shipped):
        rule = "requires the default table and held-out sources"
        fix = "Omit --publish, or CSV and --coefficients."
        raise ConfigError([Violation(path="--publish", value="", message=rule, fix=fix)])
    return request


def fit_without(runs: Sequence[PublishedRun]) -> Coefficients:
    """Fit the coefficients to the default table without the sources of these runs."""
    held = {each.source for each in runs}
    others = [each for each in load_published(PUBLISHED_CSV)[0] if each.source not in held]
    return Coefficients(
        step_time=fit_step_time(others), memory=fit_memory(others), sources=sorted({each.source for each in others})
    )


def predict_all(runs: Sequence[PublishedRun], coefficients: Coefficients) -> HeldOut:
    """Predict all runs by the same coefficients."""
    timed = _timed(runs)
    log_bytes, log_least = _predict_memory(runs, coefficients.memory)
    return HeldOut(
        timed=timed,
        log_seconds=TimeModel(timed).log_seconds(coefficients.step_time) if timed else np.zeros(0),
        all_runs=list(runs),
        log_bytes=log_bytes,
        log_least_bytes=log_least,
    )


def hold_out(runs: Sequence[PublishedRun], *, scheme: str) -> HeldOut:
    """Predict every run by coefficients that were fitted without it."""
    timed = _timed(runs)
    log_seconds = np.zeros(len(timed))
    for held in fold_masks(timed, scheme):
        coefficients = fit_step_time([each for index, each in enumerate(timed) if not held[index]])
        chosen = [each for index, each in enumerate(timed) if held[index]]
        log_seconds[held] = TimeModel(chosen).log_seconds(coefficients)
    log_bytes, log_least = np.zeros(len(runs)), np.zeros(len(runs))
    for held in fold_masks(runs, scheme):
        coefficients = fit_memory([each for index, each in enumerate(runs) if not held[index]])
        chosen = [each for index, each in enumerate(runs) if held[index]]
        log_bytes[held], log_least[held] = _predict_memory(chosen, coefficients)
    return HeldOut(
        timed=timed, log_seconds=log_seconds, all_runs=list(runs), log_bytes=log_bytes, log_least_bytes=log_least
    )


def _timed(runs: Sequence[PublishedRun]) -> list[PublishedRun]:
    return [each for each in runs if each.seconds is not None and not each.is_out_of_memory]


def _predict_memory(runs: Sequence[PublishedRun], coefficients: dict[str, float]) -> tuple[Array, Array]:
    """Return logarithms of bytes [n]: with recomputation as stated, and with full recomputation if it is not stated."""
    if not runs:
        return np.zeros(0), np.zeros(0)
    stated = MemoryModel(runs).log_bytes(coefficients)
    return stated, MemoryModel(runs, job=_leanest(runs)).log_bytes(coefficients)


def fold_masks(runs: Sequence[PublishedRun], scheme: str) -> list[Array]:
    """Return masks [n] of the runs that are held out together: one fold per source, or per publisher."""
    groups = np.array([SCHEMES[scheme](each) for each in runs])
    return [groups == group for group in sorted(set(groups.tolist()))]


def _leanest(runs: Sequence[PublishedRun]) -> TrainingJob:
    job = stack([each.job for each in runs])
    is_stated = np.array([each.states_recompute for each in runs])
    share = np.where(is_stated, job.layout.dropped_share, 1.0)
    return dataclasses.replace(job, layout=dataclasses.replace(job.layout, dropped_share=share))


def judge(held: HeldOut) -> dict[str, Any]:
    """Compute all figures of one scheme."""
    errors = held.log_seconds - np.log([each.seconds or np.nan for each in held.timed])
    is_measured = np.array([each.memory_bytes is not None for each in held.all_runs], dtype=bool)
    measured = [each for each in held.all_runs if each.memory_bytes is not None]
    memory_errors = held.log_bytes[is_measured] - np.log([each.memory_bytes or np.nan for each in measured])
    need = np.exp(held.log_least_bytes) / np.array([float(each.job.machine.memory_bytes) for each in held.all_runs])
    out = np.array([each.is_out_of_memory for each in held.all_runs], dtype=bool)
    found = sweeps(held.timed, held.log_seconds)
    step_time = {}
    for kind in sorted({each.kind for each in held.timed}):
        index = np.array([each.kind == kind for each in held.timed])
        chosen = [each for each in held.timed if each.kind == kind]
        step_time[kind] = {
            "all": _plain(error_bar(errors[index])),
            "by source": _plain_all(error_bars(chosen, errors[index], lambda each: each.source)),
            "by parallel kind": _plain_all(error_bars(chosen, errors[index], parallel_kind)),
        }
    memory = {}
    if measured:
        memory = {
            "all": _plain(error_bar(memory_errors)),
            "by source": _plain_all(error_bars(measured, memory_errors, lambda each: each.source)),
            "by parallel kind": _plain_all(error_bars(measured, memory_errors, parallel_kind)),
        }
    return {
        "step_time": step_time,
        "memory": memory,
        "sweeps": [dataclasses.asdict(sweep) for sweep in found],
        "mean_spearman": round(float(np.mean([sweep.spearman for sweep in found])), 3) if found else None,
        "running": int((~out).sum()),
        "running_judged_over_by_10_percent": int((need[~out] > 1.1).sum()),
        "running_judged_over": int((need[~out] > 1.0).sum()),
        "out_of_memory": int(out.sum()),
        "out_of_memory_judged_to_fit": int((need[out] <= 1.0).sum()),
    }


def check_goals(figures: dict[str, Any]) -> dict[str, dict[str, float | bool]]:
    """Compare the figures with every goal that the table has rows for."""
    times = {**figures["step_time"], "memory": figures["memory"]}
    reached = {
        "published as running, predicted to exceed memory by more than 10%": figures[
            "running_judged_over_by_10_percent"
        ],
        "published as out of memory, predicted to fit": figures["out_of_memory_judged_to_fit"],
    }
    for kind, part in times.items():
        if part:
            name = kind if kind == "memory" else f"{kind} step time"
            reached[f"{name}, median"] = part["all"]["median_percent"]
            reached[f"{name}, 90th percentile"] = part["all"]["p90_percent"]
    goals: dict[str, dict[str, float | bool]] = {
        name: {"goal": goal, "value": reached[name], "is_reached": reached[name] <= goal}
        for name, goal in GOALS.items()
        if name in reached
    }
    spearman = figures["mean_spearman"]
    if spearman is not None:
        name = "Spearman rank correlation within sweeps, mean"
        goals[name] = {"goal": MIN_SPEARMAN, "value": spearman, "is_reached": spearman >= MIN_SPEARMAN}
    return goals


def _summary(report: dict[str, Any]) -> dict[str, dict[str, str]]:
    """Return the figures that plans show, by scheme."""

    def errors(part: dict[str, Any]) -> str:
        return f"{part['all']['median_percent']}%, {part['all']['p90_percent']}%"

    return {
        scheme: {
            **{kind: errors(part) for kind, part in figures["step_time"].items()},
            "memory": errors(figures["memory"]),
            "spearman": str(figures["mean_spearman"]),
        }
        for scheme, figures in report["schemes"].items()
    }


def _plain(bar: ErrorBar) -> dict[str, float]:
    return dataclasses.asdict(bar)


def _plain_all(bars: dict[str, ErrorBar]) -> dict[str, dict[str, float]]:
    return {name: _plain(bar) for name, bar in bars.items()}


def print_report(report: dict[str, Any], console: Console) -> None:
    """Print the tables of the first scheme, and one line for each of the others."""
    scheme, figures = next(iter(report["schemes"].items()))
    seen = report.get("rows whose sources are in the fit", 0)
    fitted = {
        "source": "each row's source held out",
        "table": "fitted to the default table without the sources of this one",
        "coefficients": f"shipped coefficients, whose fit includes the sources of {seen} rows",
    }[scheme]
    for name, part in {**figures["step_time"], "memory": figures["memory"]}.items():
        if not part:
            continue
        title = name if name == "memory" else f"step time, {name}"
        table = Table(title=f"{title}: absolute errors in percent; {fitted}")
        table.add_column("")
        for column in ("rows", "median", "90th percentile", "bias"):
            table.add_column(column, justify="right")
        for label, bars in (("all", {"all": part["all"]}), ("", part["by source"]), ("", part["by parallel kind"])):
            for key, bar in bars.items():
                cells = (bar["count"], bar["median_percent"], bar["p90_percent"], f"{bar['bias_percent']:+}")
                table.add_row(label or key, *map(str, cells))
            table.add_section()
        console.print(table)
    table = Table(title="Spearman rank correlation of throughput within sweeps of layouts")
    for column in ("sweep", "layouts", "correlation"):
        table.add_column(column, justify="left" if column == "sweep" else "right")
    for sweep in figures["sweeps"]:
        table.add_row(sweep["name"], str(sweep["num_layouts"]), str(sweep["spearman"]))
    console.print(table)
    table = Table(title="Median and 90th percentile of errors in percent, by what is held out")
    columns = (*figures["step_time"], *(["memory"] if figures["memory"] else []), "Spearman")
    for column in ("held out", *columns):
        table.add_column(column)
    for scheme, each in report["schemes"].items():
        parts = [part["all"] for part in (*each["step_time"].values(), each["memory"]) if part]
        pairs = [f"{part['median_percent']} / {part['p90_percent']}" for part in parts]
        table.add_row(scheme, *pairs, str(each["mean_spearman"]))
    console.print(table)
    table = Table(title="Goals")
    for column in ("goal", "limit", "value", ""):
        table.add_column(column)
    for name, goal in report["goals"].items():
        table.add_row(name, str(goal["goal"]), str(goal["value"]), "reached" if goal["is_reached"] else "not reached")
    console.print(table)
    rows = "; ".join(f"{count} {name}" for name, count in report["rows"].items())
    console.print(f"Rows: {rows}.")


if __name__ == "__main__":
    sys.exit(main())
