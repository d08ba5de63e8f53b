"""Parse the launcher's command lines: a command's own WORD=VALUE options, overrides, nodes and processes."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from trainer.config.derived import count_processes
from trainer.config.load import ROOT, Check, group_options, load_config
from trainer.config.schema import TrainConfig
from trainer.config.validate import validate
from trireme.config.arguments import Misplaced, explain, regroup
from trireme.config.path_text import BadPathError, expand_path
from trireme.config.suggest import divisors, join_or, nearest_names
from trireme.errors import ConfigError, Violation
from trireme.progress import format_number

_TOP_LEVEL = (*(field.name for field in fields(TrainConfig)), "config_file", "data_prep")
"""Valid names before = in an override without a dot, in addition to the groups of conf/."""
_TRUTH = {"true": True, "false": False}


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Hold a parsed command line."""

    given: tuple[tuple[str, str], ...]
    """The command's own words with their values, in order."""
    overrides: tuple[str, ...]
    """Overrides of the run's configuration."""
    options: tuple[str, ...]
    """The command's options that begin with dashes."""
    misplaced: tuple[Violation, ...]
    """Errors of options that the command does not have, and of own words that are written like options."""
    misspelled: tuple[tuple[str, str, str], ...]
    """Arguments that look like a misspelled own word: name, value, and the word; they are in no other list."""

    @property
    def words(self) -> dict[str, str]:
        """Return the value of each own word; the last one counts when a word is repeated."""
        return dict(self.given)

    def is_true(self, word: str, *, default: bool = False) -> bool:
        """Return the value of a boolean word that has passed `check_flags`."""
        value = self.words.get(word)
        return default if value is None else _TRUTH[value]

    def path(self, word: str) -> Path | None:
        """Return the path that a word names, with `~` expanded; it must have passed `check_paths`."""
        value = self.words.get(word)
        return None if value is None else Path(expand_path(value))

    def check_paths(self, names: Collection[str]) -> Iterator[Violation]:
        """Report words whose values are invalid paths."""
        for name, value in self.given:
            try:
                expand_path(value if name in names else ".")
            except BadPathError as error:
                yield Violation(path=name, value=repr(value), message=str(error), fix="Use a valid path.")

    def check_words(self) -> Iterator[Violation]:
        """Report words that look misspelled, and unknown options."""
        yield from self.misplaced
        for name, value, word in self.misspelled:
            yield Violation(path=name, value=value, message="unknown option", fix=f"Did you mean {word}?")

    def check_renamed(self, renamed: Mapping[str, str]) -> Iterator[Violation]:
        """Report words under their former names.

        Args:
            renamed: former name -> present name, of the former words given to `split_arguments`.
        """
        for name, value in self.given:
            if name in renamed:
                yield Violation(path=name, value=value, message="was renamed", fix=f"Use {renamed[name]}={value}.")

    def check_flags(self, names: Collection[str]) -> Iterator[Violation]:
        """Report boolean words whose values are neither true nor false."""
        for name, value in self.given:
            if name in names and value not in _TRUTH:
                yield Violation(path=name, value=value, message="must be a boolean", fix="Use true or false.")


def split_arguments(
    arguments: Sequence[str],
    *,
    words: Sequence[str] = (),
    flags: Collection[str] = (),
    options: Sequence[str] = ("--help",),
    former_words: Collection[str] = (),
) -> Arguments:
    """Split a command line into the command's own words, overrides and options.

    Args:
        words: names of the command's own WORD=VALUE arguments; all others are overrides, also those of wrong form,
            which the loader reports.
        flags: those that are true or false.
        options: its options that begin with dashes; none takes a value.
        former_words: names that they had before, for `Arguments.check_renamed`.
    """
    given, known, misspelled, problems = [], [], [], []
    overrides: list[str] = []
    top = {*words, *_TOP_LEVEL, *group_options()}
    find = ROOT.find_settings
    for argument in regroup(arguments, options=options):
        if isinstance(argument, Misplaced):
            if argument.name in words or (argument.shown.startswith("-") and not find(argument.name)):
                problems.append(
                    explain(argument, find_settings=find, is_boolean=flags.__contains__, options=options, words=words)
                )
            else:
                overrides += argument.arguments
            continue
        key, is_set, value = argument.partition("=")
        if is_set and (key in words or key in former_words):
            given.append((key, value))
        elif argument in options:
            known.append(argument)
        elif is_set and key.isidentifier() and (close := nearest_names(key, top)) and close[0] in words:
            misspelled.append((key, value, close[0]))
        else:
            overrides.append(argument)
    return Arguments(
        given=tuple(given),
        overrides=tuple(overrides),
        options=tuple(known),
        misplaced=tuple(problems),
        misspelled=tuple(misspelled),
    )


def find_setting_errors(overrides: Sequence[str], *, check: Check | None = None) -> list[Violation]:
    """Return the errors of overrides, to report them together with those of the command's own words.

    Args:
        check: what to report instead of the broken rules of `trainer.config.validate`.
    """
    try:
        config = load_config(overrides, check=check)
    except ConfigError as error:
        return list(error.violations)
    return list(check(config, ())) if check else validate(config, world_size=None)


def check_nodes(config: TrainConfig) -> Iterator[Violation]:
    """Report a number of nodes that does not divide the number of processes that the layout needs."""
    num_nodes, num_processes = config.cluster.num_nodes, count_processes(config)
    processes = format_number(num_processes, "process")
    # Less than one is refused by the rule about ranges.
    if num_nodes >= 1 and num_processes % num_nodes:
        yield Violation(
            path="cluster.num_nodes",
            value=num_nodes,
            message=f"must divide the {processes} of the layout: every node starts the same number",
            fix=f"Use {join_or(divisors(num_processes))}, or set cluster.gpus_per_node.",
        )


def processes_per_node(config: TrainConfig) -> int:
    """Return the number of processes per node; the configuration must have passed `check_nodes`."""
    return count_processes(config) // config.cluster.num_nodes
