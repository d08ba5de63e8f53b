"""Render the certificate as a table on the console, as JSON, and as an HTML page."""

import datetime
import math
import platform
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from trainer.certificate.certifier import Certificate
from trainer.certificate.verdict import DIRECTION_WORDS, LayoutVerdict, Series
from trireme.strict_json import finite_or_null, to_json

VERSION = 1
"""Version of the JSON format."""

_LIBRARIES = ("torch", "megatron-core", "deepspeed", "numpy")
_HEADINGS = ("layout", "processes", "loss", "bound", "grad norm", "bound", "weights", "bound", "")


def render_table(certificate: Certificate) -> str:
    """Render one row per layout: the largest relative differences, each with the bound of its step or tensor."""
    rows = [_HEADINGS, *(_row(layout) for layout in certificate.layouts)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADINGS))]
    lines = [
        "  ".join(_pad(cell, width, column) for column, (cell, width) in enumerate(zip(row, widths, strict=True)))
        for row in rows
    ]
    num_failed = sum(not layout.is_passed for layout in certificate.layouts)
    total = len(certificate.layouts)
    result = f"all {total} layouts pass" if not num_failed else f"{num_failed} of {total} layouts fail"
    failures = [f"\n{layout.name}\n  {_reason(layout)}" for layout in certificate.layouts if not layout.is_passed]
    return "\n".join([line.rstrip() for line in lines] + [""] + [result] + failures) + "\n"


def write_report(certificate: Certificate, *, folder: Path) -> list[Path]:
    """Write certificate.json and certificate.html; return their paths."""
    record = to_record(certificate)
    json_path, html_path = folder / "certificate.json", folder / "certificate.html"
    json_path.write_text(to_json(record, indent=1) + "\n")
    html_path.write_text(render_page(certificate, record), encoding="utf-8")
    return [json_path, html_path]


def to_record(certificate: Certificate) -> dict[str, Any]:
    """Return the content of certificate.json; infinity and NaN are null."""
    settings = certificate.request.settings
    return finite_or_null(
        {
            "version": VERSION,
            "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "is_passed": certificate.is_passed,
            "overrides": list(certificate.request.overrides),
            "settings": asdict(settings),
            "libraries": {"python": platform.python_version()} | {name: metadata.version(name) for name in _LIBRARIES},
            "estimates": [
                asdict(estimate)
                | {
                    "weight_bounds": {
                        name: bound for (kind, name), bound in estimate.weight_bounds.items() if kind == "final"
                    }
                }
                for estimate in certificate.estimates
            ],
            "layouts": [
                asdict(layout) | {"culprit_text": str(layout.culprit) if layout.culprit else None}
                for layout in certificate.layouts
            ],
        }
    )


def render_page(certificate: Certificate, record: dict[str, Any]) -> str:
    """Render a self-contained HTML page."""
    environment = Environment(
        loader=PackageLoader("trainer.certificate", "."),
        autoescape=select_autoescape(default=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.j2").render(
        certificate=certificate,
        record=record,
        curves={layout.name: build_curve(layout) for layout in certificate.layouts if layout.loss},
        reason=_reason,
        number=_number,
        words=DIRECTION_WORDS,
    )


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Hold a plot of difference over bound at each step: x and y from 0 to 100, y downwards."""

    loss: str
    """Points of a polyline."""
    grad_norm: str
    bound_y: float
    """Height at which difference and bound are equal."""


def build_curve(layout: LayoutVerdict) -> Curve:
    """Build the plot on a logarithmic axis from a ten-thousandth of the bound to a hundred times the bound."""
    assert layout.loss is not None and layout.grad_norm is not None
    return Curve(loss=_points(layout.loss), grad_norm=_points(layout.grad_norm), bound_y=_height(1.0))


_LOWEST, _HIGHEST = -4.0, 2.0


def _points(series: Series) -> str:
    last = max(len(series.bounds) - 1, 1)
    pairs = zip(series.differences, series.bounds, strict=True)
    return " ".join(f"{100 * step / last:.1f},{_height(d / b):.1f}" for step, (d, b) in enumerate(pairs))


def _height(ratio: float) -> float:
    exponent = math.log10(ratio) if 0 < ratio < math.inf else _LOWEST if ratio == 0 else _HIGHEST
    return 100 * (1 - (min(max(exponent, _LOWEST), _HIGHEST) - _LOWEST) / (_HIGHEST - _LOWEST))


def _row(layout: LayoutVerdict) -> tuple[str, ...]:
    cells = [layout.name, str(layout.num_processes)]
    for series in (layout.loss, layout.grad_norm):
        if series is None:
            cells += ["-", "-"]
        else:
            cells += [_number(series.differences[series.worst_step]), _number(series.bounds[series.worst_step])]
    weight = layout.parameter
    cells += ["-", "-"] if weight is None else [_number(weight.difference), _number(weight.bound)]
    return (*cells, "pass" if layout.is_passed else "FAIL")


def _reason(layout: LayoutVerdict) -> str:
    """Return the reason why a layout fails."""
    if layout.error is not None:
        return layout.error.replace("\n", "\n  ")
    return str(layout.culprit) if layout.culprit else "exceeds its bound; the traced runs failed"


def _pad(cell: str, width: int, column: int) -> str:
    return cell.ljust(width) if column in (0, len(_HEADINGS) - 1) else cell.rjust(width)


def _number(value: float) -> str:
    return "0" if value == 0 else f"{value:.1e}" if math.isfinite(value) else "none"
