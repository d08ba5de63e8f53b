"""From a command line to one `DataPrepConfig`."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import partial

from data_tools.config import DataPrepConfig, DataPrepRoot, SourceConfig
from data_tools.sources import InputFile, resolve_inputs
from data_tools.validate import validate
from trireme.config.compose import ConfigRoot, compose_config
from trireme.errors import Violation, raise_if_any

ROOT = ConfigRoot(name="data_prep", schema=DataPrepRoot)


@dataclass(frozen=True, kw_only=True)
class Task:
    """What is to be prepared."""

    config: DataPrepConfig
    files: list[InputFile]
    """Every input file, in the order of the configuration."""
    evaluation_files: list[InputFile]
    """Every file of evaluation texts."""


def load_task(overrides: Sequence[str]) -> Task:
    """Compose conf/data_prep.yaml with Hydra overrides, check every rule, and find the input files.

    Raises:
        ConfigError: everything that is wrong.
    """
    listed = _InputLists()
    config = compose_config(ROOT, overrides, validate=partial(_validate_root, listed=listed)).data_prep
    files, missing = listed.resolve(config.sources)
    evaluation_files, also_missing = listed.resolve(config.evaluations, name="evaluations")
    raise_if_any([*validate(config), *map(_place_under_root, [*missing, *also_missing])])
    return Task(config=config, files=files, evaluation_files=evaluation_files)


class _InputLists:
    """Lists inputs once: of web servers that takes a request for each."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[list[InputFile], list[Violation]]] = {}

    def resolve(self, sources: list[SourceConfig], *, name: str = "sources") -> tuple[list[InputFile], list[Violation]]:
        """See `resolve_inputs`."""
        key = f"{name} {sources!r}"
        if key not in self._known:
            self._known[key] = resolve_inputs(sources, name=name)
        return self._known[key]


def _validate_root(root: DataPrepRoot, ignore: Collection[str], *, listed: _InputLists) -> list[Violation]:
    config = root.data_prep
    missing = listed.resolve(config.sources)[1] + listed.resolve(config.evaluations, name="evaluations")[1]
    return [
        violation
        for violation in [*validate(config), *map(_place_under_root, missing)]
        if not any(_overlap(violation.path, path) for path in ignore)
    ]


def _overlap(path: str, other: str) -> bool:
    """Whether two paths are, or contain, each other; a.0 and a[0] are the same item."""
    first, second = (f"{name.replace('[', '.').replace(']', '')}." for name in (path, other))
    return first.startswith(second) or second.startswith(first)


def _place_under_root(violation: Violation) -> Violation:
    return Violation(path=f"data_prep.{violation.path}", value=violation.value, rule=violation.rule, fix=violation.fix)
