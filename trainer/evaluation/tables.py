"""Write scores as tables for the console."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

_STDERR = "_stderr"


def render_columns(rows: Sequence[Sequence[str]], *, left: Sequence[int] = (0,)) -> str:
    """Return rows as text with aligned columns.

    Args:
        rows: cells; all rows have as many, and the first one holds headings.
        left: numbers of the columns that are aligned at the left; the others are at the right.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (
        "  ".join(
            cell.ljust(width) if column in left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )
    return "\n".join(lines) + "\n"


def render_scores(results: Mapping[str, Any]) -> str:
    """Return results of lm-evaluation-harness as a table with one row for each task and metric.

    Args:
        results: by task `metrics` (with NAME_stderr beside NAME where there is one), `num_items` and `num_fewshot`.
    """
    rows = [("task", "items", "few-shot", "metric", "value", "standard error")]
    for task, result in results.items():
        counts = [_cell(result.get(key), digits=0) for key in ("num_items", "num_fewshot")]
        metrics = result["metrics"]
        for name, value in metrics.items():
            if not (name.endswith(_STDERR) and name.removesuffix(_STDERR) in metrics):
                rows.append((task, *counts, name, _cell(value), _cell(metrics.get(f"{name}{_STDERR}"))))
    return render_columns(rows, left=(0, 3))


def _cell(value: object, *, digits: int = 4) -> str:
    return f"{value:,.{digits}f}" if isinstance(value, int | float) and math.isfinite(value) else ""
