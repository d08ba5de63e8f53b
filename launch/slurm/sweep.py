"""Expand sweeps: overrides with several values, in Hydra's syntax, become one run each."""

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
    """Hold one combination of a sweep's values."""

    overrides: tuple[str, ...]
    """Overrides of this run, each with one value."""
    name: str | None = None
    """Suffix that distinguishes its run, such as lr_0.001; None when run_name itself is swept."""


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """Hold all combinations, or the errors of the sweep."""

    choices: tuple[Choice, ...] = ()
    problems: tuple[Violation, ...] = ()


@dataclass(frozen=True, kw_only=True)
class _Axis:
    """Hold an override and its values: several if it is swept, none if it is invalid."""

    key: str
    lines: list[str]
    is_swept: bool = False


def expand_sweep(overrides: Sequence[str]) -> Sweep:
    """Return the Cartesian product of all overrides with several values, as Hydra's own sweeper does.

    Args:
        overrides: `PATH=A,B`, `PATH=choice(A,B)`, `PATH=range(1,4)` and `GROUP=glob(*)` are swept; the last one
            varies fastest. The loader reports overrides that Hydra cannot parse.
    """
    problems: list[Violation] = []
    axes = [axis for axis in (_read_axis(line, problems) for line in overrides) if axis.lines]
    swept = [axis.key for axis in axes if axis.is_swept]
    if not swept and not problems:
        rule = "requires an override with several values"
        problems.append(Violation(path="-m", value="", message=rule, fix="Write, for example, optimizer.lr=1e-3,3e-4."))
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
            Violation(path=key, value=written, message=f"invalid sweep: {first_line(error)}", fix=f"Write {key}=A,B.")
        )
        return _Axis(key=key, lines=[])
    repeated = [value for value, count in Counter(map(_plain, values)).items() if count > 1]
    if repeated or not values:
        rule = f"several runs would have the same suffix, {repeated[0]}" if repeated else "the sweep has no values"
        fix = "List each value once." if repeated else f"Write {key}=A,B."
        problems.append(Violation(path=key, value=written, message=rule, fix=fix))
    return _Axis(key=key, lines=[f"{key}={value}" for value in values], is_swept=True)


def _values_of(override: Override) -> list[str]:
    value: object = override.value()
    if isinstance(value, Glob):
        return value.filter(group_options().get(override.key_or_group, []))
    return list(override.sweep_string_iterator())


def _shorten(keys: Iterable[str]) -> dict[str, str]:
    """Return the shortest suffix of each path that is unique."""

    def tails(key: str) -> Iterator[str]:
        parts = key.lstrip("+").replace("/", ".").split(".")
        yield from (".".join(parts[-length:]) for length in range(1, len(parts) + 1))

    counts = Counter(tail for key in set(keys) for tail in tails(key))
    return {key: next((tail for tail in tails(key) if counts[tail] == 1), key) for key in keys}


def _plain(value: str) -> str:
    """Return a value in a form that can be part of a run's name."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", value).strip("-") or "empty"
