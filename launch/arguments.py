"""Command lines of launchers: a command's own words (WORD=VALUE) and options among the overrides of a run."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from trainer.common.errors import Violation
from trainer.config.suggest import did_you_mean, either

_TRUTH = {"true": True, "false": False}


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """A command line, taken apart."""

    given: tuple[tuple[str, str], ...]
    """The command's own words with their values, as they were given."""
    overrides: tuple[str, ...]
    """Of the run."""
    options: tuple[str, ...]
    """What begins with a hyphen."""

    @property
    def words(self) -> dict[str, str]:
        """The value of each own word; the last of several for one word."""
        return dict(self.given)

    def is_true(self, word: str, *, default: bool = False) -> bool:
        """The value of a word that is true or false; `check_flags` must find nothing wrong with it."""
        value = self.words.get(word)
        return default if value is None else _TRUTH[value]

    def check_flags(self, names: Collection[str]) -> Iterator[Violation]:
        """Name words whose values are neither true nor false."""
        for name, value in self.given:
            if name in names and value not in _TRUTH:
                rule = "is neither true nor false"
                yield Violation(path=name, value=value, rule=rule, fix="use true or false")


def split_arguments(arguments: Sequence[str], *, words: Collection[str]) -> Arguments:
    """Take a command line apart.

    Args:
        words: of the command itself; other WORD=VALUE are overrides.
    """
    given, overrides, options = [], [], []
    for argument in arguments:
        key, is_set, value = argument.partition("=")
        if is_set and key in words:
            given.append((key, value))
        elif argument.startswith("-"):
            options.append(argument)
        else:
            overrides.append(argument)
    return Arguments(given=tuple(given), overrides=tuple(overrides), options=tuple(options))


def unknown_option(option: str, *, known: Sequence[str]) -> Violation:
    """What to say of an option that a command does not have."""
    fix = f"{did_you_mean(option, known)}use {either(known)}; settings are written PATH=VALUE"
    return Violation(path="option", value=option, rule="is unknown", fix=fix)
