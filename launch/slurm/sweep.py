"""Sweeps: Hydra's several values of an override, as one run each."""

import itertools
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from hydra.core.override_parser.types import Glob, Override
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from trainer.config.load import group_options
from trireme.config.compose import first_line
from trireme.config.override_line import parse_override
from trireme.errors import Violation


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One combination of a sweep's values."""

    overrides: tuple[str, ...]
    """Of this run: no sweep is left in them."""
    name: str | None = None
    """What tells its run from the others', such as lr_0.001; None where run_name itself is swept."""


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """All combinations, or what is wrong with the sweep."""

    choices: tuple[Choice, ...] = ()
    problems: tuple[Violation, ...] = ()


@dataclass(frozen=True, kw_only=True)
class _Axis:
    """An override and its values: several where it is swept, none where it is wrong."""

    key: str
    lines: list[str]
    is_swept: bool = False


def expand_sweep(overrides: Sequence[str]) -> Sweep:
    """Make the product of all overrides that have several values, as Hydra's own sweeper does.

    Args:
        overrides: `PATH=A,B`, `PATH=choice(A,B)`, `PATH=range(1,4)` and `GROUP=glob(*)` are swept, the last one the
            fastest. What Hydra cannot read is left for the loader to explain.
    """
    problems: list[Violation] = []
    axes = [axis for axis in (_read_axis(line, problems) for line in overrides) if axis.lines]
    swept = [axis.key for axis in axes if axis.is_swept]
    if not swept and not problems:
        rule, fix = "has nothing to sweep", "give an override several values, such as optimizer.lr=1e-3,3e-4"
        problems.append(Violation(path="option", value="-m", message=rule, fix=fix))
    short = _shorten(swept)
    choices = []
    for lines in itertools.product(*(axis.lines for axis in axes)):
        values = [line.partition("=")[2] for line, axis in zip(lines, axes, strict=True) if axis.is_swept]
        words = [f"{short[key]}_{_plain(value)}" for key, value in zip(swept, values, strict=True)]
        choices.append(Choice(overrides=lines, name=None if "run_name" in swept else "_".join(words)))
    return Sweep(choices=tuple(choices), problems=tuple(problems))


def _read_axis(line: str, problems: list[Violation]) -> _Axis:
    key, _, written = line.partition("=")
    try:
        override = parse_override(line)
    except HydraException:
        return _Axis(key=key, lines=[line])
    if not override.is_sweep_override():
        return _Axis(key=key, lines=[line])
    try:
        values = _values_of(override)
    except (HydraException, OmegaConfBaseException) as error:  # the latter for a sweep inside another
        problems.append(
            Violation(path=key, value=written, message=f"cannot be swept: {first_line(error)}", fix=f"write {key}=A,B")
        )
        return _Axis(key=key, lines=[])
    repeated = [value for value, count in Counter(map(_plain, values)).items() if count > 1]
    if repeated or not values:
        rule = f"gives several runs the name {repeated[0]}" if repeated else "has no values"
        problems.append(Violation(path=key, value=written, message=rule, fix="name each value once"))
    return _Axis(key=key, lines=[f"{key}={value}" for value in values], is_swept=True)


def _values_of(override: Override) -> list[str]:
    value: object = override.value()
    if isinstance(value, Glob):
        return value.filter(group_options().get(override.key_or_group, []))
    return list(override.sweep_string_iterator())


def _shorten(keys: Iterable[str]) -> dict[str, str]:
    """The last part of each path, and more of it where that would not tell it from another."""

    def tails(key: str) -> Iterator[str]:
        parts = key.lstrip("+").replace("/", ".").split(".")
        yield from (".".join(parts[-length:]) for length in range(1, len(parts) + 1))

    counts = Counter(tail for key in set(keys) for tail in tails(key))
    return {key: next((tail for tail in tails(key) if counts[tail] == 1), key) for key in keys}


def _plain(value: str) -> str:
    """A value as a part of a run's name."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", value).strip("-") or "empty"
