"""Parse the preflight's command line: its own options, and the overrides of the run."""

from collections.abc import Sequence
from dataclasses import dataclass

from launch.cli import find_setting_errors, split_arguments
from trireme.config.suggest import did_you_mean, join_or
from trireme.errors import ConfigError, Violation

CHECKS = (
    "configuration",
    "layout",
    "inputs",
    "memory",
    "disk",
    "wandb",
    "container",
    "port",
    "clock",
    "libraries",
    "slurm",
    "hardware",
)
"""All checks, in the order of the table."""

_FLAGS = ("checksums", "hardware", "on_nodes")
_WORDS = (*_FLAGS, "allow")
_RENAMED = {"accept": "allow", "sniff": "hardware"}
"""Former name of an option -> its name."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """Hold a valid command line."""

    overrides: tuple[str, ...]
    """Overrides of the run's configuration."""
    checksums: bool
    """Read every byte of the shards."""
    hardware: bool
    """Measure devices and links, on this host or, with on_nodes, on the cluster's nodes."""
    on_nodes: bool
    """Run the hardware check as a job on the cluster's nodes."""
    allow: frozenset[str]
    """Checks whose failures are downgraded to warnings."""


def parse_request(arguments: Sequence[str]) -> Request:
    """Parse a command line.

    Raises:
        ConfigError: an option is unknown or has an invalid value; lists all of them.
    """
    split = split_arguments(arguments, words=_WORDS, flags=_FLAGS, former_words=_RENAMED)
    lists = [value.strip("[]").split(",") for word, value in split.given if word == "allow"]
    allowed = [name.strip() for names in lists for name in names if name.strip()]
    problems = [
        *split.check_words(),
        *split.check_renamed(_RENAMED),
        *split.check_flags(_FLAGS),
        *(_unknown_check(name) for name in allowed if name not in CHECKS),
    ]
    if problems:
        raise ConfigError([*problems, *find_setting_errors(split.overrides)])
    on_nodes = split.is_true("on_nodes")
    return Request(
        overrides=split.overrides,
        checksums=split.is_true("checksums", default=True),
        hardware=split.is_true("hardware") or on_nodes,
        on_nodes=on_nodes,
        allow=frozenset(allowed),
    )


def _unknown_check(name: str) -> Violation:
    fix = f"{did_you_mean(_RENAMED.get(name, name), CHECKS)}Use {join_or(CHECKS)}."
    return Violation(path="allow", value=name, message="no such check", fix=fix)
