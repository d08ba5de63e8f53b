"""Dataclasses of numbers that hold one case or many: every field a number, or an array with one entry per case.

The formulas of the planner are written once, for both: a plan evaluates thousands of layouts in one go, a fit hundreds
of published runs.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Number = float | Array
"""One value, or one per case."""

T = TypeVar("T")


def stack(cases: Sequence[T]) -> T:
    """Put cases of one dataclass of numbers together: [n] per field.

    Dataclasses inside are stacked as well.
    """
    first: Any = cases[0]
    values = {}
    for field in dataclasses.fields(first):
        column = [getattr(case, field.name) for case in cases]
        is_nested = dataclasses.is_dataclass(column[0])
        values[field.name] = stack(column) if is_nested else np.asarray(column, dtype=np.float64)
    return type(first)(**values)


def take(cases: T, index: Any) -> T:
    """Choose cases by an index, a mask or a list of indices; what is one number for all of them stays so."""
    values = {}
    for field in dataclasses.fields(cases):  # type: ignore[arg-type]
        value = getattr(cases, field.name)
        if dataclasses.is_dataclass(value):
            values[field.name] = take(value, index)
        else:
            values[field.name] = value[index] if np.ndim(value) else value
    return type(cases)(**values)


def total(parts: Any) -> Number:
    """The sum of all fields of a dataclass of numbers."""
    return sum((getattr(parts, field.name) for field in dataclasses.fields(parts)), start=0.0)
