"""Write a probe as one HTML page that needs nothing else."""

import base64
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

MAX_CODE = 65535
"""Code of probability 1 in the page's attention maps."""


def render_page(record: dict[str, Any]) -> str:
    """Render the content of the JSON file; probabilities of attention are rounded to 1 / 65535."""
    environment = Environment(
        loader=PackageLoader("trainer.interpret", "."),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    attention = [
        {"layer": layer["layer"], "heads": [_encode(head) for head in layer["heads"]]} for layer in record["attention"]
    ]
    return environment.get_template("page.html.j2").render(
        record=record, content={**record, "attention": attention, "max_code": MAX_CODE}
    )


def _encode(rows: list[list[float]]) -> str:
    """Encode the lower triangle, row by row, in base64 of 16 bits, the low byte first."""
    values = np.concatenate([np.array(row) for row in rows])
    return base64.b64encode(np.rint(values * MAX_CODE).astype("<u2").tobytes()).decode("ascii")
