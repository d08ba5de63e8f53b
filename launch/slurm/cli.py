"""What launch.slurm is asked for: its own words, taken out of the overrides of the run."""

from collections.abc import Sequence
from dataclasses import dataclass

from launch.cli import Arguments, split_arguments, unknown_option
from trireme.config.suggest import did_you_mean, join_or
from trireme.errors import Violation

ACTIONS = ("submit", "status", "stop", "logs")
WORDS = ("action", "dry_run", "follow", "chain")
OPTIONS = ("-m", "--multirun", "--help", "-h")
_MOST_LINKS = 100


@dataclass(frozen=True, kw_only=True)
class Request:
    """A command line, taken apart."""

    overrides: tuple[str, ...]
    """Of the run."""
    action: str = "submit"
    dry_run: bool = False
    """Show the scripts instead of submitting them."""
    follow: bool = False
    """logs: go on with what is written from now on."""
    chain: int = 1
    """Jobs that follow one another, each going on where the one before it had to stop."""
    is_sweep: bool = False
    """Several values of an override are one run each."""
    problems: tuple[Violation, ...] = ()
    """What is wrong with the own words."""


def parse_request(arguments: Sequence[str]) -> Request:
    """Split a command line; what is wrong with it is for the caller to report, together with the rest."""
    split = split_arguments(arguments, words=WORDS)
    unknown = [option for option in split.options if option not in OPTIONS]
    problems = [unknown_option(option, known=OPTIONS, words=WORDS) for option in unknown]
    problems += [*split.check_words(), *_check_words(split)]
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
        fix = f"{did_you_mean(action, ACTIONS)}Use {join_or(ACTIONS)}"
        problems.append(Violation(path="action", value=action, message="is no action", fix=fix))
    problems += split.check_flags(("dry_run", "follow"))
    chain = split.words.get("chain", "1")
    if not chain.isdecimal() or not 1 <= int(chain) <= _MOST_LINKS:
        rule = "is no number of jobs"
        problems.append(Violation(path="chain", value=chain, message=rule, fix=f"use 1 to {_MOST_LINKS}"))
    return problems
