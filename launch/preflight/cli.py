"""What the preflight is asked for: its own keys, taken out of the overrides of the run."""

from collections.abc import Sequence
from dataclasses import dataclass

from launch.cli import split_arguments, unknown_option
from trireme.config.suggest import did_you_mean, join_or
from trireme.errors import Violation, raise_if_any

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
    "sniff",
)
"""All checks, in the order of the table."""

_FLAGS = ("checksums", "sniff", "on_nodes")
_WORDS = (*_FLAGS, "accept")


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
    split = split_arguments(arguments, words=_WORDS)
    lists = [value.strip("[]").split(",") for word, value in split.given if word == "accept"]
    accepted = [name.strip() for names in lists for name in names if name.strip()]
    raise_if_any(
        [
            *split.check_words(),
            *split.check_flags(_FLAGS),
            *(_unknown_check(name) for name in accepted if name not in CHECKS),
            *(unknown_option(option, known=("--help",), words=_WORDS) for option in split.options),
        ]
    )
    on_nodes = split.is_true("on_nodes")
    return Request(
        overrides=split.overrides,
        checksums=split.is_true("checksums", default=True),
        sniff=split.is_true("sniff") or on_nodes,
        on_nodes=on_nodes,
        accept=frozenset(accepted),
    )


def _unknown_check(name: str) -> Violation:
    fix = f"{did_you_mean(name, CHECKS)}Use {join_or(CHECKS)}"
    return Violation(path="accept", value=name, message="is no check", fix=fix)
