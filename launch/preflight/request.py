"""What the preflight is asked for: its own keys, taken out of the overrides of the run."""

from collections.abc import Sequence
from dataclasses import dataclass

from trainer.common.errors import Violation, raise_if_any
from trainer.config.suggest import either, nearest_names

CHECKS = (
    "configuration",
    "layout",
    "inputs",
    "memory",
    "disk",
    "wandb",
    "port",
    "clock",
    "libraries",
    "sniff",
)
"""All checks, in the order of the table."""

_FLAGS = {"checksums": True, "sniff": False, "on_nodes": False}


@dataclass(frozen=True, kw_only=True)
class Request:
    """A checked command line."""

    overrides: tuple[str, ...]
    """Of the run."""
    checksums: bool
    """Read every byte of the shards."""
    sniff: bool
    """Measure devices and links: here, or on the nodes with on_nodes."""
    on_nodes: bool
    """Run the sniff test as a job on the cluster's nodes."""
    accept: frozenset[str]
    """Checks whose errors are meant."""


def parse_request(arguments: Sequence[str]) -> Request:
    """Split a command line.

    Raises:
        ConfigError: an own key has a value that it cannot have; all of them at once.
    """
    values: dict[str, bool] = dict(_FLAGS)
    accept: set[str] = set()
    overrides, problems = [], []
    for argument in arguments:
        key, is_set, value = argument.partition("=")
        if is_set and key in _FLAGS:
            if value not in ("true", "false"):
                problems.append(Violation(path=key, value=value, rule="is neither true nor false", fix="use one"))
            values[key] = value == "true"
        elif is_set and key == "accept":
            names = [name.strip() for name in value.strip("[]").split(",") if name.strip()]
            problems += [_unknown_check(name) for name in names if name not in CHECKS]
            accept |= set(names)
        elif argument.startswith("-"):
            rule, fix = "is no option", f"own keys are {either([f'{name}=true' for name in _FLAGS])} and accept=CHECK"
            problems.append(Violation(path="option", value=argument, rule=rule, fix=fix))
        else:
            overrides.append(argument)
    raise_if_any(problems)
    return Request(
        overrides=tuple(overrides),
        checksums=values["checksums"],
        sniff=values["sniff"] or values["on_nodes"],
        on_nodes=values["on_nodes"],
        accept=frozenset(accept),
    )


def _unknown_check(name: str) -> Violation:
    close = nearest_names(name, CHECKS)
    hint = f"did you mean {close[0]}? " if close else ""
    return Violation(path="accept", value=name, rule="is no check", fix=f"{hint}use {either(CHECKS)}")
