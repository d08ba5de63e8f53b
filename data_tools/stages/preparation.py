"""One preparation: configuration, inputs and stage directories, loaded from a command line."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from data_tools.config.rules import validate
from data_tools.config.schema import ROOT, DataPrepConfig, DataPrepRoot, SourceConfig
from data_tools.inputs.files import InputFile, resolve_inputs
from data_tools.output.publish import describe_preparation
from data_tools.stages.cache import Stage, StageDirectories, find_stage_directories
from data_tools.work.progress import Stages
from trireme.config.compose import compose_config
from trireme.cores import count_cores
from trireme.errors import Violation, raise_if_any

TIMINGS_FILE = "timings.jsonl"


@dataclass(frozen=True, kw_only=True)
class Share:
    """One of several equal shares of a stage's work."""

    number: int = 0
    count: int = 1


@dataclass(frozen=True, kw_only=True)
class Task:
    """A preparation's configuration and its input files."""

    config: DataPrepConfig
    files: list[InputFile]
    """Every input file, in the order of the configuration."""
    evaluation_files: list[InputFile]
    """Every file of evaluation texts."""


def load_task(overrides: Sequence[str]) -> Task:
    """Compose conf/data_prep.yaml with Hydra overrides, check every rule, and find the input files.

    Raises:
        ConfigError: carries every violation.
    """
    listed = _InputLists()
    config = compose_config(ROOT, overrides, validate=partial(_validate_root, listed=listed)).data_prep
    files, missing = listed.resolve(config.sources)
    evaluation_files, also_missing = listed.resolve(config.evaluations, name="evaluations")
    raise_if_any([*validate(config), *map(_place_under_root, [*missing, *also_missing])])
    return Task(config=config, files=files, evaluation_files=evaluation_files)


class _InputLists:
    """Lists inputs once: on a web server each file takes a request."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[list[InputFile], list[Violation]]] = {}

    def resolve(self, sources: list[SourceConfig], *, name: str = "sources") -> tuple[list[InputFile], list[Violation]]:
        """Resolve sources as `resolve_inputs` does, once."""
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
    """Return whether two paths are equal or one contains the other; a.0 and a[0] are the same item."""
    first, second = (f"{name.replace('[', '.').replace(']', '')}." for name in (path, other))
    return first.startswith(second) or second.startswith(first)


def _place_under_root(violation: Violation) -> Violation:
    return Violation(
        path=f"data_prep.{violation.path}", value=violation.value, message=violation.message, fix=violation.fix
    )


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """A preparation and its directories."""

    task: Task
    description: dict[str, Any]
    """Everything that determines the output."""
    directories: StageDirectories
    num_workers: int
    """Worker processes of a stage, or of a share of it."""

    @classmethod
    def of(cls, task: Task) -> "Preparation":
        """Describe a preparation, and find its stage directories."""
        config = task.config
        description = describe_preparation(config, task.files, evaluation_files=task.evaluation_files)
        directories = find_stage_directories(
            Path(config.output_dir), description, task.files, batch_bytes=config.batch_bytes
        )
        match config.executor.kind:
            case "local":
                num_cpus = count_cores()
            case "slurm":
                num_cpus = config.executor.slurm.cpus_per_task
            case "ray":
                num_cpus = config.executor.ray_cpus_per_share
        return cls(
            task=task,
            description=description,
            directories=directories,
            num_workers=config.num_workers or num_cpus,
        )

    @property
    def progress(self) -> Stages:
        """Return the progress display of the stages."""
        return Stages(titles=tuple(Stage), mode=self.config.progress, timings=self.directories.read / TIMINGS_FILE)

    @property
    def config(self) -> DataPrepConfig:
        """Return the settings."""
        return self.task.config

    @property
    def output(self) -> Path:
        """Return the directory of the finished files."""
        return Path(self.config.output_dir)
