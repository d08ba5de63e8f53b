"""Load the runs of a command line, one or all of a sweep, and check them together."""

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
    """Hold one run, or those of a sweep."""

    configs: tuple[TrainConfig, ...]
    base_directory: Path
    """The run directory, or the directory with the sweep's name, which contains its script and code; absolute."""
    base_name: str
    """The name of the run or of the sweep."""


def load_runs(request: Request) -> Runs:
    """Load the configuration of every run and, before a submission, check it.

    Raises:
        ConfigError: lists all errors in the command line and in all runs, each error once.
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
    """Group the runs with the same Slurm options and setup: each group becomes one job array."""
    groups: dict[str, list[TrainConfig]] = {}
    for config in configs:
        # The number of processes may depend on the layout.
        groups.setdefault(repr((config.cluster, count_processes(config), config.output_dir)), []).append(config)
    return list(groups.values())


def split_evenly(items: Sequence[_Item], num_parts: int) -> list[list[_Item]]:
    """Split into num_parts parts in order, whose sizes differ by at most one."""
    size, longer = divmod(len(items), num_parts)
    ends = [number * size + min(number, longer) for number in range(num_parts + 1)]
    return [list(items[start:end]) for start, end in pairwise(ends)]
