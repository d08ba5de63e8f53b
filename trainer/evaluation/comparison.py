"""Compare evaluations of several checkpoints or models: as a table on the console, and as a page with a plot."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from trainer.evaluation.tables import render_columns
from trireme.files import write_whole

_HEADINGS = ("model", "step", "loss", "perplexity", "bits per byte", "95 % interval", "tokens")
_HEIGHT, _COLUMN, _LEFT, _TOP, _BOTTOM = 220.0, 120.0, 70.0, 15.0, 45.0


@dataclass(frozen=True, kw_only=True)
class Mark:
    """Hold one figure of the plot, in its coordinates."""

    label: str
    step: str
    value: str
    x: float
    y: float
    low: float
    high: float
    """y of the interval's ends."""


@dataclass(frozen=True, kw_only=True)
class Tick:
    """Hold a line of the plot's axis."""

    y: float
    label: str


def name_of(result: Mapping[str, Any]) -> str:
    """Return the name of an evaluated model: that of its run's directory, or of the checkpoint."""
    path = Path(result["checkpoint"])
    return path.parent.parent.name if path.parent.name == "checkpoints" else path.name


def build_rows(results: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """Return the cells of the table, one row for each result."""
    return [
        (
            name_of(result),
            str(result["step"]),
            _format(result["loss"]),
            _format(result["perplexity"], digits=2),
            _format(result.get("bits_per_byte")),
            _interval(result),
            f"{result['num_tokens']:,}",
        )
        for result in results
    ]


def render_table(results: Sequence[Mapping[str, Any]]) -> str:
    """Return the table as text."""
    return render_columns([_HEADINGS, *build_rows(results)])


def find_difference(results: Sequence[Mapping[str, Any]]) -> str:
    """Return why figures cannot be compared: texts of different length; empty if nothing speaks against it.

    The last tokens of a text that fill no window are left out, and so many depend on window and tokenizer: a fiftieth
    of the text may be missing.
    """
    unit = "bytes" if all(result.get("num_bytes") for result in results) else "tokens"
    lengths = [int(result[f"num_{unit}"]) for result in results]
    if max(lengths) - min(lengths) <= max(lengths) // 50:
        return ""
    return (
        f"These figures are of different texts, of {min(lengths):,} to {max(lengths):,} {unit}, and cannot be compared."
        " Give all models one data.validation, and training.eval_iters=null to evaluate them on all of it."
    )


def write_page(results: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write a page without scripts and without anything from the network.

    Raises:
        OSError: it cannot be written.
    """
    environment = Environment(
        loader=PackageLoader("trainer.evaluation", "."),
        autoescape=select_autoescape(default_for_string=True, default=True),
        undefined=StrictUndefined,
    )
    measure = "bits_per_byte" if all(result.get("bits_per_byte") is not None for result in results) else "loss"
    marks, ticks = build_plot(results, measure=measure)
    page = environment.get_template("comparison.html.j2").render(
        headings=_HEADINGS,
        rows=build_rows(results),
        difference=find_difference(results),
        measure="bits per byte" if measure == "bits_per_byte" else "loss in nats per token",
        marks=marks,
        ticks=ticks,
        width=_LEFT + _COLUMN * len(results),
        height=_HEIGHT,
        groups=[
            (title, *_build_groups(results, key))
            for title, key in (("Source", "by_source"), ("Language", "by_language"))
        ],
    )
    write_whole(path, page)


def build_plot(results: Sequence[Mapping[str, Any]], *, measure: str) -> tuple[list[Mark], list[Tick]]:
    """Place a figure and its interval for each result that has one; lower is better.

    Args:
        measure: bits_per_byte or loss.
    """
    shown = [(number, result) for number, result in enumerate(results) if result.get(measure) is not None]
    if not shown:
        return [], []
    bounds = [_bounds(result, measure) for _, result in shown]
    least, most = min(low for low, _ in bounds), max(high for _, high in bounds)
    margin = 0.1 * (most - least) or 0.05 * abs(most) or 1.0
    least, most = least - margin, most + margin

    def place(value: float) -> float:
        return round(_TOP + (most - value) / (most - least) * (_HEIGHT - _TOP - _BOTTOM), 2)

    marks = [
        Mark(
            label=name_of(result),
            step=f"step {result['step']}",
            value=_format(result[measure]),
            x=_LEFT + _COLUMN * (number + 0.5),
            y=place(result[measure]),
            low=place(low),
            high=place(high),
        )
        for (number, result), (low, high) in zip(shown, bounds, strict=True)
    ]
    return marks, [Tick(y=place(value), label=label) for value, label in _round_values(least, most)]


def _round_values(least: float, most: float) -> list[tuple[float, str]]:
    """Return three to eight multiples of 1, 2 or 5 times a power of ten between two values, with their labels."""
    exponent = math.floor(math.log10((most - least) / 3))
    factor = next((factor for factor in (5, 2) if factor * 10.0**exponent <= (most - least) / 3), 1)
    step, digits = factor * 10.0**exponent, max(0, -exponent)
    numbers = range(math.ceil(least / step), math.floor(most / step) + 1)
    return [(number * step, _format(number * step, digits=digits)) for number in numbers]


def _bounds(result: Mapping[str, Any], measure: str) -> tuple[float, float]:
    low, high = result.get("confidence_95", {}).get(measure, (None, None))
    value = result[measure]
    return (value if low is None else low), (value if high is None else high)


def _build_groups(results: Sequence[Mapping[str, Any]], key: str) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """Return the headings and rows of bits per byte by source or language; no rows where there are no groups."""
    names = sorted({name for result in results for name in result.get(key, {})})
    rows = []
    for name in names:
        cells = []
        for result in results:
            group = result.get(key, {}).get(name)
            cells.append("" if group is None else f"{_format(group['bits_per_byte'])} {_interval(group)}")
        rows.append((name, cells))
    return [f"{name_of(result)}, step {result['step']}" for result in results], rows


def _interval(result: Mapping[str, Any]) -> str:
    low, high = result.get("confidence_95", {}).get("bits_per_byte", (None, None))
    return "" if low is None or high is None else f"[{_format(low)}, {_format(high)}]"


def _format(value: float | None, *, digits: int = 4) -> str:
    return "" if value is None or not math.isfinite(value) else f"{value:,.{digits}f}"
