"""The runs that a command line means: one, or all of a sweep, checked as a whole."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

from launch.cli import check_nodes
from launch.slurm.cli import Request
from launch.slurm.render import check_paths
from launch.slurm.sweep import Choice, expand_sweep
from trainer.config.derived import count_processes
from trainer.config.load import load_config
from trainer.config.schema import TrainConfig
from trainer.config.validate import validate
from trireme.errors import ConfigError, raise_if_any

_Item = TypeVar("_Item")


@dataclass(frozen=True, kw_only=True)
class Runs:
    """One run, or those of a sweep."""

    configs: tuple[TrainConfig, ...]
    base_directory: Path
    """Of the run, or the one of the sweep's name, which holds its script and code; absolute."""
    base_name: str
    """The run's name, or the sweep's."""


def load_runs(request: Request) -> Runs:
    """Load the configuration of every run and, before a submission, check it.

    Raises:
        ConfigError: everything that is wrong with the command line and all runs, each thing once.
    """
    problems = list(request.problems)
    choices: tuple[Choice, ...] = (Choice(overrides=request.overrides),)
    if request.is_sweep:
        sweep = expand_sweep(request.overrides)
        choices = sweep.choices
        problems += sweep.problems
    configs: list[TrainConfig] = []
    base: TrainConfig | None = None
    for choice in choices if not (request.is_sweep and problems) else choices[:1]:
        try:
            config = load_config(choice.overrides)
            base = base or config
            if choice.name:
                config = load_config([*choice.overrides, f"run_name='{config.run_name}_{choice.name}'"])
        except ConfigError as error:
            problems += error.violations
            continue
        configs.append(config)
        if request.action == "submit":
            problems += validate(config, world_size=count_processes(config))
            problems += check_nodes(config)
            problems += check_paths(config)
    raise_if_any({str(problem): problem for problem in problems}.values())
    assert base is not None
    return Runs(
        configs=tuple(configs),
        base_directory=Path(base.output_dir, base.run_name).absolute(),
        base_name=base.run_name,
    )


def group_alike(configs: Sequence[TrainConfig]) -> list[list[TrainConfig]]:
    """Runs that ask Slurm for the same and do the same before they start, together: each group is one array."""
    groups: dict[str, list[TrainConfig]] = {}
    for config in configs:
        # The number of processes may follow from the layout.
        groups.setdefault(repr((config.cluster, count_processes(config), config.output_dir)), []).append(config)
    return list(groups.values())


def split_evenly(items: Sequence[_Item], num_parts: int) -> list[list[_Item]]:
    """Split into so many parts in order, the first ones by one item longer where it does not come out even."""
    size, longer = divmod(len(items), num_parts)
    ends = [number * size + min(number, longer) for number in range(num_parts + 1)]
    return [list(items[start:end]) for start, end in pairwise(ends)]
