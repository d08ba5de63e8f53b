"""What launch.slurm is asked for: its own words, taken out of the overrides of the run."""

from collections.abc import Sequence
from dataclasses import dataclass

from trainer.common.errors import Violation
from trainer.config.suggest import either, nearest_names

ACTIONS = ("submit", "status", "stop", "logs")
OPTIONS = ("-m", "--multirun", "--help", "-h")
_TRUTH = {"true": True, "false": False}
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
    words: dict[str, str] = {}
    overrides, problems = [], []
    for argument in arguments:
        key, is_set, value = argument.partition("=")
        if is_set and key in ("action", "dry_run", "follow", "chain"):
            words[key] = value
        elif argument.startswith("-"):
            problems += [] if argument in OPTIONS else [_unknown_option(argument)]
        else:
            overrides.append(argument)
    problems += _check_words(words)
    if problems:
        return Request(overrides=tuple(overrides), problems=tuple(problems), is_sweep=_is_sweep(arguments))
    return Request(
        overrides=tuple(overrides),
        action=words.get("action", "submit"),
        dry_run=_TRUTH[words.get("dry_run", "false")],
        follow=_TRUTH[words.get("follow", "false")],
        chain=int(words.get("chain", "1")),
        is_sweep=_is_sweep(arguments),
    )


def _is_sweep(arguments: Sequence[str]) -> bool:
    return not {"-m", "--multirun"}.isdisjoint(arguments)


def _check_words(words: dict[str, str]) -> list[Violation]:
    problems = []
    action = words.get("action", "submit")
    if action not in ACTIONS:
        close = nearest_names(action, ACTIONS)
        fix = (f"did you mean {close[0]}? " if close else "") + f"use {either(ACTIONS)}"
        problems.append(Violation(path="action", value=action, rule="is no action", fix=fix))
    for name in ("dry_run", "follow"):
        if words.get(name, "false") not in _TRUTH:
            rule = "is neither true nor false"
            problems.append(Violation(path=name, value=words[name], rule=rule, fix="use true or false"))
    chain = words.get("chain", "1")
    if not chain.isdecimal() or not 1 <= int(chain) <= _MOST_LINKS:
        rule = "is no number of jobs"
        problems.append(Violation(path="chain", value=chain, rule=rule, fix=f"use 1 to {_MOST_LINKS}"))
    return problems


def _unknown_option(option: str) -> Violation:
    close = nearest_names(option, OPTIONS)
    hint = f"did you mean {close[0]}? " if close else ""
    fix = f"{hint}use {either(OPTIONS)}; settings are written PATH=VALUE"
    return Violation(path="option", value=option, rule="is unknown", fix=fix)
