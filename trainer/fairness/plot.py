"""Draw figures with their intervals as one HTML page without external assets."""

import html
import math
from collections.abc import Mapping, Sequence
from typing import Any

from trainer.fairness.intervals import MIN_CLUSTERS, Figure
from trainer.fairness.report import CAN_SAY, CANNOT_SAY, GENERAL, SetResult
from trireme.progress import format_number

_ROW, _LABELS, _WIDTH, _RIGHT = 22, 260, 350, 350
_STYLE = """
:root { color-scheme: light dark; --text: #1b1f24; --muted: #656d76; --paper: #fff; --line: #d0d7de; --far: #b3261e;
  --near: #2c5f9e; }
@media (prefers-color-scheme: dark) { :root { --text: #e6edf3; --muted: #9198a1; --paper: #0d1117; --line: #3d444d;
  --far: #ff8a80; --near: #79b8ff; } }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 960px; margin: 2rem auto; padding: 0 1rem; color: var(--text);
  background: var(--paper); }
h1, .muted { overflow-wrap: anywhere; }
svg { max-width: 100%; height: auto; } svg text { font-size: 12px; fill: var(--text); }
.muted { color: var(--muted); } svg .muted { fill: var(--muted); }
.line { stroke: var(--line); } .near { stroke: var(--near); fill: var(--near); }
.far { stroke: var(--far); fill: var(--far); } .few { stroke: var(--muted); fill: var(--muted); }
"""


def build_page(described: Mapping[str, Any], results: Sequence[SetResult]) -> str:
    """Return the page: for each file a row per figure, with its interval and the neutral value.

    Args:
        described: of the result, what the figures depend on.
    """
    checkpoint = html.escape(str(described["checkpoint"]))
    title = f"Bias of {html.escape(str(described['run_name'] or described['checkpoint']))}, step {described['step']}"
    parts = [
        f"<h1>{title}</h1>",
        f'<p class="muted">Checkpoint {checkpoint}, {described["params_dtype"]}, seed {described["seed"]}.</p>',
        "<p>A dot is a figure, a bar its 95 % interval, a dashed line the neutral value. Red: the interval excludes it."
        f" Gray: with less than {MIN_CLUSTERS} clusters of related items no conclusion is drawn. Shares and accuracies"
        " are drawn from 0 to 1, other figures around 0, each kind on its own scale. n is the number of items.</p>",
    ]
    for result in results:
        kind = result.file.kind
        parts += [
            f"<h2>{html.escape(result.file.name)}</h2>",
            f'<p class="muted">{kind}, {result.num_items} items</p>',
            _draw(result.figures),
            f"<p>Can say: {html.escape(CAN_SAY[kind])} Cannot say: {html.escape(CANNOT_SAY[kind])}</p>",
        ]
    parts += [f"<p>{html.escape(line)}</p>" for line in GENERAL]
    body = "\n".join(parts)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width"><link rel="icon" href="data:,">'
        f"<title>{title}</title><style>{_STYLE}</style></head>\n<body>\n{body}\n</body></html>\n"
    )


def _draw(figures: Sequence[Figure]) -> str:
    """Return an SVG; figures of different units have an axis each, a row."""
    rows = [figure for figure in figures if not math.isnan(figure.value)]
    width, height = _LABELS + _WIDTH + _RIGHT, _ROW * (len(rows) + 1)
    lines = [f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img">']
    for number, figure in enumerate(rows):
        y = _ROW * number + _ROW
        low, high = _range(figure, rows)

        def place(value: float, low: float = low, high: float = high) -> float:
            return round(_LABELS + (value - low) / (high - low) * _WIDTH, 1)

        kind = "few" if figure.num_clusters < MIN_CLUSTERS else "far" if figure.is_biased else "near"
        lines.append(f'<text x="0" y="{y + 4}">{html.escape(figure.name)}')
        lines.append(f'<tspan class="muted"> {html.escape(figure.subset)}</tspan></text>')
        lines.append(f'<line class="line" x1="{_LABELS}" x2="{_LABELS + _WIDTH}" y1="{y}" y2="{y}"/>')
        if figure.neutral is not None:
            x = place(figure.neutral)
            lines.append(f'<line class="muted" stroke="currentColor" stroke-dasharray="2 2" x1="{x}" x2="{x}"')
            lines.append(f' y1="{y - 8}" y2="{y + 8}"/>')
        if not math.isnan(figure.low):
            start, end = place(figure.low), place(figure.high)
            lines.append(f'<line class="{kind}" stroke-width="3" x1="{start}" x2="{end}" y1="{y}" y2="{y}"/>')
        lines.append(f'<circle class="{kind}" cx="{place(figure.value)}" cy="{y}" r="4"/>')
        interval = "" if math.isnan(figure.low) else f" [{figure.low:.3f}, {figure.high:.3f}]"
        text = f"{figure.value:.3f}{interval} n={figure.num_items} in {format_number(figure.num_clusters, 'cluster')}"
        lines.append(f'<text x="{_LABELS + _WIDTH + 8}" y="{y + 4}">{text}</text>')
    return "\n".join([*lines, "</svg>"])


def _range(figure: Figure, rows: Sequence[Figure]) -> tuple[float, float]:
    """Return the ends of an axis: of shares and accuracies 0 and 1, of others around the neutral value."""
    if figure.name.endswith("_share") or (figure.name.startswith("accuracy_") and not figure.name.endswith("_gap")):
        return 0.0, 1.0
    same = [other for other in rows if other.name == figure.name]
    values = [abs(value) for one in same for value in (one.value, one.low, one.high) if not math.isnan(value)]
    reach = max([*values, 0.05]) * 1.1
    return -reach, reach
