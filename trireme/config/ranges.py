"""Ranges of numbers, and what to use instead of a number outside."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from trireme.config.suggest import join_or, to_yaml
from trireme.errors import Violation


@dataclass(frozen=True, kw_only=True)
class Range:
    """Numbers from minimum to maximum. An end is excluded where that is said."""

    minimum: float
    maximum: float = math.inf
    is_minimum_excluded: bool = False
    is_maximum_excluded: bool = False
    reason: str = ""
    """Why, where it is not plain from the field's name."""

    def __contains__(self, value: float) -> bool:
        above = value > self.minimum if self.is_minimum_excluded else value >= self.minimum
        below = value < self.maximum if self.is_maximum_excluded else value <= self.maximum
        return above and below and math.isfinite(value)

    def __str__(self) -> str:
        if self.minimum == self.maximum:
            return to_yaml(self.minimum)
        lower = f"{'more than' if self.is_minimum_excluded else 'at least'} {to_yaml(self.minimum)}"
        if math.isinf(self.maximum):
            return lower
        return f"{lower} and {'less than' if self.is_maximum_excluded else 'at most'} {to_yaml(self.maximum)}"

    def nearest(self, value: float) -> str:
        """What to use instead of a number outside."""
        if not math.isfinite(value):
            return f"use a finite number, {self}"
        if self.maximum - self.minimum <= 1 and not self.is_maximum_excluded:
            return f"use {join_or(range(int(self.minimum), int(self.maximum) + 1))}"
        if value > self.maximum or (value == self.maximum and self.is_maximum_excluded):
            end, is_excluded, word = self.maximum, self.is_maximum_excluded, "less"
        else:
            end, is_excluded, word = self.minimum, self.is_minimum_excluded, "more"
        return f"use {word} than {to_yaml(end)}" if is_excluded else f"use {to_yaml(end)} or {word}"


def find_out_of_range(config: object, ranges: Mapping[str, Range]) -> Iterator[Violation]:
    """Name every number outside its range.

    Args:
        ranges: by path; passed over where the configuration has no such field or the value is null or a word.
    """
    for path, allowed in ranges.items():
        value: Any = config
        for name in path.split("."):
            value = getattr(value, name, None)
        if value is not None and not isinstance(value, str) and value not in allowed:
            reason = f": {allowed.reason}" if allowed.reason else ""
            rule = f"is not {allowed}{reason}" if math.isfinite(value) else "is not finite"
            yield Violation(path=path, value=to_yaml(value), message=rule, fix=allowed.nearest(value))
