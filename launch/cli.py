"""The command lines of the launcher: words of a command apart from overrides, nodes and processes."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from trainer.config.derived import count_processes
from trainer.config.load import group_options
from trainer.config.schema import TrainConfig
from trireme.config.path_text import BadPathError, expand_path
from trireme.config.suggest import did_you_mean, divisors, join_or, nearest_names
from trireme.errors import Violation
from trireme.progress import format_number

_TOP_LEVEL = (*(field.name for field in fields(TrainConfig)), "config_file", "data_prep")
"""What may stand before = in an override without a dot, besides the groups of conf/."""
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
    misspelled: tuple[tuple[str, str, str], ...]
    """What is meant for an own word, it seems: as it was written, its value, and the word; in no other list."""

    @property
    def words(self) -> dict[str, str]:
        """The value of each own word; the last of several for one word."""
        return dict(self.given)

    def is_true(self, word: str, *, default: bool = False) -> bool:
        """The value of a word that is true or false; `check_flags` must find nothing wrong with it."""
        value = self.words.get(word)
        return default if value is None else _TRUTH[value]

    def path(self, word: str) -> Path | None:
        """The path that a word names, with `~` expanded; `check_paths` must find nothing wrong with it."""
        value = self.words.get(word)
        return None if value is None else Path(expand_path(value))

    def check_paths(self, names: Collection[str]) -> Iterator[Violation]:
        """Name words whose values can be no paths."""
        for name, value in self.given:
            try:
                expand_path(value if name in names else ".")
            except BadPathError as error:
                yield Violation(path=name, value=repr(value), message=str(error), fix="write a path")

    def check_words(self) -> Iterator[Violation]:
        """Name words that look misspelled."""
        for name, value, word in self.misspelled:
            rule = "is neither a word of this command nor a field of the configuration"
            yield Violation(path=name, value=value, message=rule, fix=f"did you mean {word}?")

    def check_flags(self, names: Collection[str]) -> Iterator[Violation]:
        """Name words whose values are neither true nor false."""
        for name, value in self.given:
            if name in names and value not in _TRUTH:
                rule = "is neither true nor false"
                yield Violation(path=name, value=value, message=rule, fix="use true or false")


def split_arguments(arguments: Sequence[str], *, words: Collection[str]) -> Arguments:
    """Take a command line apart.

    Args:
        words: of the command itself; other WORD=VALUE are overrides.
    """
    given, overrides, options, misspelled = [], [], [], []
    top = {*words, *_TOP_LEVEL, *group_options()}
    for argument in arguments:
        key, is_set, value = argument.partition("=")
        if is_set and key in words:
            given.append((key, value))
        elif argument.startswith("-"):
            options.append(argument)
        elif is_set and key.isidentifier() and (close := nearest_names(key, top)) and close[0] in words:
            misspelled.append((key, value, close[0]))
        else:
            overrides.append(argument)
    return Arguments(
        given=tuple(given), overrides=tuple(overrides), options=tuple(options), misspelled=tuple(misspelled)
    )


def unknown_option(option: str, *, known: Sequence[str] = (), words: Sequence[str] = ()) -> Violation:
    """What to say of an option that a command does not have.

    Args:
        known: options that it has.
        words: its own words, which are written without hyphens.
    """
    name = option.lstrip("-").partition("=")[0].replace("-", "_")
    hint = did_you_mean(name, words) or did_you_mean(option, known)
    own = f"use {join_or([*known, *(f'{word}=VALUE' for word in words)])}"
    return Violation(
        path="option", value=option, message="is unknown", fix=f"{hint}{own}; settings are written PATH=VALUE"
    )


def check_nodes(config: TrainConfig) -> Iterator[Violation]:
    """Name a number of nodes that does not divide the processes; only a layout that counts them can be at fault."""
    num_nodes, num_processes = config.cluster.num_nodes, count_processes(config)
    processes = format_number(num_processes, "process")
    # Less than one is refused by the rule about ranges.
    if num_nodes >= 1 and num_processes % num_nodes:
        yield Violation(
            path="cluster.num_nodes",
            value=num_nodes,
            message=f"does not divide the {processes} of the layout, and every node starts as many",
            fix=f"use {join_or(divisors(num_processes))}, or set cluster.gpus_per_node",
        )


def processes_per_node(config: TrainConfig) -> int:
    """Processes that each node starts, where `check_nodes` finds nothing wrong."""
    return count_processes(config) // config.cluster.num_nodes
