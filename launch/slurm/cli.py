"""Parse the command line of launch.slurm: its own options, and the overrides of the run."""

from collections.abc import Sequence
from dataclasses import dataclass

from launch.cli import Arguments, split_arguments
from trireme.config.suggest import did_you_mean, join_or
from trireme.errors import Violation

ACTIONS = ("submit", "status", "stop", "logs")
WORDS = ("action", "dry_run", "follow", "chain")
_FLAGS = ("dry_run", "follow")
OPTIONS = ("-m", "--multirun", "--help", "-h")
_MOST_LINKS = 100


@dataclass(frozen=True, kw_only=True)
class Request:
    """Hold a parsed command line."""

    overrides: tuple[str, ...]
    """Overrides of the run's configuration."""
    action: str = "submit"
    dry_run: bool = False
    """Print the scripts instead of submitting them."""
    follow: bool = False
    """logs: keep printing what is written from now on."""
    chain: int = 1
    """Number of dependent jobs, each resuming where the previous one had to stop."""
    is_sweep: bool = False
    """Each of several values of an override is one run."""
    problems: tuple[Violation, ...] = ()
    """Errors in the command's own options."""


def parse_request(arguments: Sequence[str]) -> Request:
    """Parse a command line; the caller reports its errors together with those of the configuration."""
    split = split_arguments(arguments, words=WORDS, flags=_FLAGS, options=OPTIONS)
    problems = [*split.check_words(), *_check_words(split)]
    is_sweep = not {"-m", "--multirun"}.isdisjoint(split.options)
    if problems:
        return Request(overrides=split.overrides, problems=tuple(problems), is_sweep=is_sweep)
    return Request(
        overrides=split.overrides,
        action=split.words.get("action", "submit"),
        dry_run=split.is_true("dry_run"),
        follow=split.is_true("follow"),
        chain=int(split.words.get("chain", "1")),
        is_sweep=is_sweep,
    )


def _check_words(split: Arguments) -> list[Violation]:
    problems = []
    action = split.words.get("action", "submit")
    if action not in ACTIONS:
        fix = f"{did_you_mean(action, ACTIONS)}Use {join_or(ACTIONS)}."
        problems.append(Violation(path="action", value=action, message="no such action", fix=fix))
    problems += split.check_flags(_FLAGS)
    chain = split.words.get("chain", "1")
    if not chain.isdecimal() or not 1 <= int(chain) <= _MOST_LINKS:
        rule = "must be a number of jobs"
        problems.append(Violation(path="chain", value=chain, message=rule, fix=f"Use 1 to {_MOST_LINKS}."))
    return problems
