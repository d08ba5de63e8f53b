"""JSON that every reader accepts."""

import json
import math
from typing import Any

from trireme.strict_json import to_json


def test_non_finite_numbers_are_null_at_any_depth() -> None:
    value: dict[str, Any] = {"loss": math.nan, "layers": [{"load": (1.0, math.inf)}, -math.inf], "name": "nan", 3: 0.5}
    assert to_json(value) == '{"loss": null, "layers": [{"load": [1.0, null]}, null], "name": "nan", "3": 0.5}'


def test_finite_values_are_as_before() -> None:
    value = {"a": [1, 2.5, None, True, "x"], "b": {"c": 1e300}}
    assert to_json(value) == json.dumps(value)
    assert to_json(value, indent=1) == json.dumps(value, indent=1)
