"""Suggest the nearest valid values and names."""

import difflib
from collections.abc import Iterable, Sequence

_LEAST_BEGINNING = 3
"""Letters of a prefix that identify a name."""


def to_yaml(value: object) -> str:
    """Write a value as it is written in YAML and in an override."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {to_yaml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(to_yaml(item) for item in value) + "]"
    return str(value)


def join_or(values: Iterable[object]) -> str:
    """Join choices: `1, 2 or 4`."""
    shown = [to_yaml(value) for value in values]
    if len(shown) < 2:
        return "".join(shown)
    return ", ".join(shown[:-1]) + " or " + shown[-1]


def nearest_names(name: str, candidates: Iterable[str], *, count: int = 1) -> list[str]:
    """Return the candidates that begin with name, then the most similar ones, best first; none when none is close."""
    known = list(candidates)
    longer = sorted((each for each in known if each.startswith(name)), key=len) if len(name) >= _LEAST_BEGINNING else []
    close = difflib.get_close_matches(name, known, n=count, cutoff=0.6)
    return list(dict.fromkeys([*longer, *close]))[:count]


def did_you_mean(name: str, candidates: Iterable[str]) -> str:
    """Return `Did you mean NAME? ` with the candidate spelled most like name; an empty text when none is close."""
    return "".join(f"Did you mean {close}? " for close in nearest_names(name, candidates))


def divisors(number: int) -> list[int]:
    """Return all divisors of a positive number, ascending."""
    small = [value for value in range(1, int(number**0.5) + 1) if number % value == 0]
    large = [number // value for value in reversed(small) if value * value != number]
    return small + large


def nearest_values(target: int, candidates: Sequence[int], *, count: int = 6) -> list[int]:
    """Return the candidates nearest to target, ascending."""
    return sorted(sorted(candidates, key=lambda value: (abs(value - target), value))[:count])


def nearest_multiples(value: int, step: int) -> list[int]:
    """Return the positive multiples of step just below and just above value."""
    below = value // step * step
    return [multiple for multiple in (below, below + step) if multiple > 0]
