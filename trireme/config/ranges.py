"""Check numbers against ranges, and suggest a value inside."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from trireme.config.suggest import join_or, to_yaml
from trireme.errors import Violation


@dataclass(frozen=True, kw_only=True)
class Range:
    """Hold the range of a number. Both ends are included unless marked as excluded."""

    minimum: float
    maximum: float = math.inf
    is_minimum_excluded: bool = False
    is_maximum_excluded: bool = False
    reason: str = ""
    """The reason, where it does not follow from the field's name."""

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
        """Suggest what to use instead of a number outside, as a sentence."""
        if not math.isfinite(value):
            return f"Use a finite number, {self}."
        if self.maximum - self.minimum <= 1 and not self.is_maximum_excluded:
            return f"Use {join_or(range(int(self.minimum), int(self.maximum) + 1))}."
        if value > self.maximum or (value == self.maximum and self.is_maximum_excluded):
            end, is_excluded, word = self.maximum, self.is_maximum_excluded, "less"
        else:
            end, is_excluded, word = self.minimum, self.is_minimum_excluded, "more"
        return f"Use {word} than {to_yaml(end)}." if is_excluded else f"Use {to_yaml(end)} or {word}."


def find_out_of_range(config: object, ranges: Mapping[str, Range]) -> Iterator[Violation]:
    """Report every number outside its range.

    Args:
        ranges: by path; skipped where the configuration has no such field or the value is null or a word.
    """
    for path, allowed in ranges.items():
        value: Any = config
        for name in path.split("."):
            value = getattr(value, name, None)
        if value is not None and not isinstance(value, str) and value not in allowed:
            reason = f": {allowed.reason}" if allowed.reason else ""
            rule = f"must be {allowed}{reason}" if math.isfinite(value) else "must be finite"
            yield Violation(path=path, value=to_yaml(value), message=rule, fix=allowed.nearest(value))
