"""The planner's error bars: its predictions against published runs that its coefficients have not seen.

usage: python -m benchmarks.planner.validate [CSV] [--json FILE] [--publish]

CSV is a table like benchmarks/planner/data/published_throughput.csv (the default). For every row the coefficients are
fitted anew without it, in three ways:

  model      without all rows of the same framework and model: the figures that the planner is judged by
  row        without this row and a tenth of the others, drawn by chance: what another row of a known table would show
  framework  without all rows of the same framework, whose own factor is then its prior's: what a new framework would

Printed are the median and the 90th percentile of absolute errors of step time and memory, by source and by kind of
parallelism; the rank correlation of predicted and published throughput within sweeps of layouts; and which published
runs are judged not to fit. --json also writes them to FILE; --publish writes the line that plans show of them.
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
from launch.plan.arrays import Array, stack
from launch.plan.job import Job
from launch.plan.plan import ERROR_BARS_FILE
from trainer.common.errors import ConfigError, Violation, exit_code_of

NUM_FOLDS = 10
SCHEMES = ("model", "row", "framework")
GOALS = {
    "dense 16-bit step time, median": 10.0,
    "dense 16-bit step time, 90th percentile": 25.0,
    "dense fp8/fp4 step time, median": 18.0,
    "moe step time, median": 18.0,
    "memory, median": 8.0,
    "published as running, judged over memory by more than 10%": 0.0,
    "published out of memory, judged to fit": 0.0,
}
"""The most that is aimed at, in percent, or runs."""
MIN_SPEARMAN = 0.85


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """Predictions of one scheme, each by coefficients that have not seen its row."""

    timed: list[PublishedRun]
    log_seconds: Array
    """[timed] predicted."""
    all_runs: list[PublishedRun]
    log_bytes: Array
    """[all_runs] predicted, with recomputation as stated, none where it is not."""
    log_least_bytes: Array
    """[all_runs] the same, with full recomputation where a source does not say what it did."""


def main() -> int:
    """The command."""
    return exit_code_of(lambda: run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Read the table, judge, print."""
    if "-h" in arguments or "--help" in arguments:
        sys.stdout.write((__doc__ or "").lstrip())
        return 0
    table, output = _read_arguments([word for word in arguments if word != "--publish"])
    runs, skipped = load_published(table)
    report: dict[str, Any] = {"command": "python -m benchmarks.planner.validate", "schemes": {}}
    for scheme in SCHEMES:
        report["schemes"][scheme] = judge(hold_out(runs, scheme=scheme))
    report["goals"] = check_goals(report["schemes"]["model"])
    reasons = [each.reason for each in skipped]
    untimed = sum(each.seconds is None and not each.is_out_of_memory for each in runs)
    report["rows"] = {
        "compared": len(runs),
        "of them without their time: TFLOP/s by a convention that is not named": untimed,
        **{reason: reasons.count(reason) for reason in sorted(set(reasons))},
    }
    print_report(report, Console())
    if output:
        output.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    if "--publish" in arguments:
        ERROR_BARS_FILE.write_text(json.dumps(_summary(report), indent=1) + "\n", encoding="utf-8")
    return 0


def _read_arguments(arguments: Sequence[str]) -> tuple[Path, Path | None]:
    words = list(arguments)
    output = None
    if "--json" in words:
        place = words.index("--json")
        if place + 1 == len(words):
            rule, fix = "names no file", "write --json FILE"
            raise ConfigError([Violation(path="option", value="--json", rule=rule, fix=fix)])
        output = Path(words[place + 1])
        del words[place : place + 2]
    table = Path(words[0]) if words else PUBLISHED_CSV
    if len(words) > 1 or not table.is_file():
        value = " ".join(words) or str(table)
        raise ConfigError(
            [Violation(path="csv", value=value, rule="is no table", fix=f"name a file like {PUBLISHED_CSV}")]
        )
    return table, output


def hold_out(runs: Sequence[PublishedRun], *, scheme: str) -> HeldOut:
    """Predict every run by coefficients that were fitted without it."""
    timed = [each for each in runs if each.seconds is not None and not each.is_out_of_memory]
    log_seconds = np.zeros(len(timed))
    for held in fold_masks(timed, scheme):
        coefficients = fit_step_time([each for index, each in enumerate(timed) if not held[index]])
        chosen = [each for index, each in enumerate(timed) if held[index]]
        log_seconds[held] = TimeModel(chosen).log_seconds(coefficients)
    log_bytes, log_least = np.zeros(len(runs)), np.zeros(len(runs))
    for held in fold_masks(runs, scheme):
        coefficients = fit_memory([each for index, each in enumerate(runs) if not held[index]])
        chosen = [each for index, each in enumerate(runs) if held[index]]
        log_bytes[held] = MemoryModel(chosen).log_bytes(coefficients)
        log_least[held] = MemoryModel(chosen, job=_leanest(chosen)).log_bytes(coefficients)
    return HeldOut(
        timed=timed, log_seconds=log_seconds, all_runs=list(runs), log_bytes=log_bytes, log_least_bytes=log_least
    )


def fold_masks(runs: Sequence[PublishedRun], scheme: str) -> list[Array]:
    """[n] masks of what is held out together."""
    if scheme == "row":
        numbers = np.random.default_rng(0).permutation(len(runs)) % NUM_FOLDS
        return [numbers == fold for fold in range(NUM_FOLDS)]
    key: Callable[[PublishedRun], object] = (lambda each: each.group) if scheme == "model" else _family
    groups = [key(each) for each in runs]
    # Groups with memory figures are few: each is held out alone. The others share folds.
    measured = sorted({str(key(each)) for each in runs if each.memory_bytes is not None})
    others = sorted({str(group) for group in groups} - set(measured))
    order = np.random.default_rng(0).permutation(len(others))
    numbers_of = {name: index for index, name in enumerate(measured)}
    num_shared = len(others) if scheme == "framework" else min(NUM_FOLDS, len(others))
    numbers_of |= {name: len(measured) + int(order[index]) % num_shared for index, name in enumerate(others)}
    numbers = np.array([numbers_of[str(group)] for group in groups])
    return [numbers == number for number in sorted(set(numbers.tolist()))]


def _family(run: PublishedRun) -> str:
    return run.row["framework"].split(" (dev)")[0]


def _leanest(runs: Sequence[PublishedRun]) -> Job:
    job = stack([each.job for each in runs])
    is_stated = np.array([each.states_recompute for each in runs])
    share = np.where(is_stated, job.layout.recomputed_share, 1.0)
    return dataclasses.replace(job, layout=dataclasses.replace(job.layout, recomputed_share=share))


def judge(held: HeldOut) -> dict[str, Any]:
    """All figures of one scheme."""
    errors = held.log_seconds - np.log([each.seconds or np.nan for each in held.timed])
    is_measured = np.array([each.memory_bytes is not None for each in held.all_runs])
    measured = [each for each in held.all_runs if each.memory_bytes is not None]
    memory_errors = held.log_bytes[is_measured] - np.log([each.memory_bytes or np.nan for each in measured])
    need = np.exp(held.log_least_bytes) / np.array([float(each.job.machine.memory_bytes) for each in held.all_runs])
    out = np.array([each.is_out_of_memory for each in held.all_runs])
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
    """Each goal that the table has rows for: what is aimed at, what is reached."""
    times = {**figures["step_time"], "memory": figures["memory"]}
    reached = {
        "published as running, judged over memory by more than 10%": figures["running_judged_over_by_10_percent"],
        "published out of memory, judged to fit": figures["out_of_memory_judged_to_fit"],
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


def _summary(report: dict[str, Any]) -> dict[str, str]:
    """The line that plans show."""

    def errors(part: dict[str, Any]) -> str:
        return f"{part['all']['median_percent']}%, {part['all']['p90_percent']}%"

    figures, foreign = report["schemes"]["model"], report["schemes"]["framework"]
    times = {kind: errors(part) for kind, part in figures["step_time"].items()}
    unknown = f"step time {errors(foreign['step_time']['dense 16-bit'])}, memory {errors(foreign['memory'])}"
    return {
        **times,
        "memory": errors(figures["memory"]),
        "spearman": str(figures["mean_spearman"]),
        "framework": unknown,
    }


def _plain(bar: ErrorBar) -> dict[str, float]:
    return dataclasses.asdict(bar)


def _plain_all(bars: dict[str, ErrorBar]) -> dict[str, dict[str, float]]:
    return {name: _plain(bar) for name, bar in bars.items()}


def print_report(report: dict[str, Any], console: Console) -> None:
    """Write the tables of the scheme that counts, and a line of each of the others."""
    figures = report["schemes"]["model"]
    for name, part in {**figures["step_time"], "memory": figures["memory"]}.items():
        if not part:
            continue
        title = name if name == "memory" else f"step time, {name}"
        table = Table(title=f"{title}: absolute errors in percent, rows of the same framework and model held out")
        table.add_column("")
        for column in ("rows", "median", "90th percentile", "bias"):
            table.add_column(column, justify="right")
        for label, bars in (("all", {"all": part["all"]}), ("", part["by source"]), ("", part["by parallel kind"])):
            for key, bar in bars.items():
                cells = (bar["count"], bar["median_percent"], bar["p90_percent"], f"{bar['bias_percent']:+}")
                table.add_row(label or key, *map(str, cells))
            table.add_section()
        console.print(table)
    table = Table(title="Order of layouts within sweeps: Spearman rank correlation of throughput")
    for column in ("sweep", "layouts", "correlation"):
        table.add_column(column, justify="left" if column == "sweep" else "right")
    for sweep in figures["sweeps"]:
        table.add_row(sweep["name"], str(sweep["num_layouts"]), str(sweep["spearman"]))
    console.print(table)
    table = Table(title="What is held out: median and 90th percentile in percent")
    columns = (*figures["step_time"], *(["memory"] if figures["memory"] else []), "Spearman")
    for column in ("held out", *columns):
        table.add_column(column)
    for scheme, each in report["schemes"].items():
        parts = [part["all"] for part in (*each["step_time"].values(), each["memory"]) if part]
        pairs = [f"{part['median_percent']} / {part['p90_percent']}" for part in parts]
        table.add_row(scheme, *pairs, str(each["mean_spearman"]))
    console.print(table)
    table = Table(title="Goals")
    for column in ("goal", "at most (or least)", "value", ""):
        table.add_column(column)
    for name, goal in report["goals"].items():
        table.add_row(name, str(goal["goal"]), str(goal["value"]), "reached" if goal["is_reached"] else "not reached")
    console.print(table)
    rows = "; ".join(f"{count} {name}" for name, count in report["rows"].items())
    console.print(f"Rows: {rows}.")


if __name__ == "__main__":
    sys.exit(main())
