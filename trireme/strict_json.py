"""Write standard JSON: without NaN and Infinity, which Python writes and other readers reject."""

import json
import math
from collections.abc import Callable, Mapping
from typing import Any


def to_json(value: Any, *, indent: int | None = None, default: Callable[[Any], Any] | None = None) -> str:
    """Serialize a value, with null for every number that is not finite, at any depth.

    Args:
        default: turns what JSON does not have, such as a date, into what it has; None raises TypeError.
    """
    return json.dumps(finite_or_null(value), indent=indent, allow_nan=False, default=default)


def finite_or_null(value: Any) -> Any:
    """Copy mappings and sequences, with None for every float that is not finite."""
    if isinstance(value, Mapping):
        return {str(key): finite_or_null(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite_or_null(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
