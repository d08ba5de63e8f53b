"""Compute statistics of predictions against published figures."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import spearmanr

from benchmarks.planner.published import PublishedRun
from launch.plan.job import Array

MIN_LAYOUTS = 4
"""Minimum number of layouts of a sweep for a rank correlation; three are in the right order by chance in one of six."""


@dataclass(frozen=True, kw_only=True)
class ErrorBar:
    """Hold the absolute errors of a set of predictions, in percent of the published figure."""

    count: int
    median_percent: float
    p90_percent: float
    bias_percent: float
    """Median of signed errors."""


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """Hold the rank correlation of predictions for runs that differ only by layout."""

    name: str
    num_layouts: int
    spearman: float


def error_bar(log_ratio: Array) -> ErrorBar:
    """Return the errors of predictions.

    Args:
        log_ratio: [n] logarithms of predicted over published.
    """
    percent = 100 * np.expm1(log_ratio)
    return ErrorBar(
        count=len(percent),
        median_percent=round(float(np.median(np.abs(percent))), 1),
        p90_percent=round(float(np.percentile(np.abs(percent), 90)), 1),
        bias_percent=round(float(np.median(percent)), 1),
    )


def error_bars(
    runs: Sequence[PublishedRun], log_ratio: Array, key: Callable[[PublishedRun], str]
) -> dict[str, ErrorBar]:
    """Return the errors of each group of runs, by `key`."""
    members = defaultdict(list)
    for index, run in enumerate(runs):
        members[key(run)].append(index)
    return {name: error_bar(log_ratio[indices]) for name, indices in sorted(members.items())}


def parallel_kind(run: PublishedRun) -> str:
    """Return the kinds of parallelism that a run combines: `tp+pp`, `fsdp`, `dp`."""
    layout = run.job.layout
    sizes = {"tp": layout.tp, "pp": layout.pp, "cp": layout.cp, "ep": layout.ep}
    kinds = [name for name, size in sizes.items() if size > 1]
    if layout.zero_stage >= 2:
        kinds.append("fsdp")
    return "+".join(kinds) or "dp"


def sweeps(runs: Sequence[PublishedRun], log_seconds: Array) -> list[Sweep]:
    """Return the rank correlation of predicted and published throughput in each sweep.

    A sweep is a source's table of layouts for one model, number format, sequence length and number of devices.
    """
    members = defaultdict(list)
    for index, run in enumerate(runs):
        row = run.row
        section = row["notes"].split(";")[1].strip() if row["source"].startswith("BLOOM/") else ""
        keys = ("source", "model", "layers", "heads", "seq", "gpu", "precision", "n_gpus")
        members[(section, *(row[key] for key in keys))].append(index)
    found = []
    for key, indices in sorted(members.items()):
        num_layouts = len({_layout_of(runs[index]) for index in indices})
        if num_layouts < MIN_LAYOUTS:
            continue
        tokens = np.log([float(runs[index].job.tokens_per_step) for index in indices])
        published = tokens - np.log([runs[index].seconds or np.nan for index in indices])
        rank = float(spearmanr(tokens - log_seconds[indices], published).statistic)
        name = " ".join(part for part in (key[1], key[0], key[2], key[6], f"{float(key[8]):.0f} devices") if part)
        found.append(Sweep(name=name, num_layouts=num_layouts, spearman=round(rank, 2)))
    return found


def _layout_of(run: PublishedRun) -> tuple[str, ...]:
    keys = ("tp", "pp", "vp", "cp", "ep", "dp", "mbs", "recompute", "shard", "shard_size")
    return tuple(run.row[key] for key in keys)
