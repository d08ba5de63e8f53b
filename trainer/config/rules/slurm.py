"""Rules about the job on a Slurm cluster."""

import re
from collections.abc import Iterator, Mapping

from trainer.common.errors import Violation
from trainer.config.rules.rule import reads
from trainer.config.schema import TrainConfig
from trainer.config.slurm import time_limit_seconds
from trainer.config.suggest import show

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_OPTION = re.compile(r"[a-z][a-z0-9-]*")
_MOUNT = re.compile(r"[^:\n]+:[^:\n]+(:[a-z,]+)?")

_FIELDS = {
    "account": "cluster.slurm.account",
    "constraint": "cluster.slurm.constraint",
    "cpus-per-task": "cluster.slurm.cpus_per_task",
    "exclude": "cluster.slurm.exclude",
    "exclusive": "cluster.slurm.exclusive",
    "gpus-per-node": "cluster.gpus_per_node",
    "gres": "cluster.gpus_per_node with cluster.slurm.gpu_option=gres",
    "mail-type": "cluster.slurm.mail_type",
    "mail-user": "cluster.slurm.mail_user",
    "mem": "cluster.slurm.memory",
    "nodes": "cluster.num_nodes",
    "partition": "cluster.slurm.partition",
    "qos": "cluster.slurm.qos",
    "reservation": "cluster.slurm.reservation",
    "signal": "cluster.slurm.warn_seconds",
    "time": "cluster.slurm.time_limit",
}
"""Options of sbatch that have a field of their own."""
_OWN = ("array", "dependency", "job-name", "ntasks", "ntasks-per-node", "open-mode", "output", "requeue", "no-requeue")
"""Options of sbatch that the script decides on."""


@reads("cluster.slurm.time_limit", "cluster.slurm.warn_seconds")
def _warning_comes_before_the_end(config: TrainConfig, world_size: int | None) -> Iterator[Violation]:
    slurm = config.cluster.slurm
    seconds = time_limit_seconds(slurm.time_limit)
    if not seconds:
        rule, fix = "is no time limit that sbatch knows", "write minutes, HH:MM:SS, D-HH or D-HH:MM:SS"
        yield Violation(path="cluster.slurm.time_limit", value=slurm.time_limit, rule=rule, fix=fix)
    elif slurm.warn_seconds * 2 > seconds:
        yield Violation(
            path="cluster.slurm.warn_seconds",
            value=slurm.warn_seconds,
            rule=f"is more than half of cluster.slurm.time_limit={slurm.time_limit}, so little is trained before the"
            " warning",
            fix=f"use {seconds // 2} or less" if seconds > 1 else "use a longer time limit",
        )


@reads("cluster.slurm.options")
def _options_are_further_ones(config: TrainConfig, world_size: int | None) -> Iterator[Violation]:
    for name, value in config.cluster.slurm.options.items():
        path = f"cluster.slurm.options.{name}"
        if not _OPTION.fullmatch(name):
            plain = name.lstrip("-").replace("_", "-").lower()
            yield Violation(path=path, value=show(value), rule="is no long name of an option", fix=f"write {plain}")
        elif name in _FIELDS:
            yield Violation(
                path=path, value=show(value), rule="is an option with a field of its own", fix=f"set {_FIELDS[name]}"
            )
        elif name in _OWN:
            yield Violation(
                path=path, value=show(value), rule="is what the script itself decides on", fix="leave it out"
            )
        elif isinstance(value, dict | list):
            yield Violation(path=path, value=show(value), rule="is no single value", fix="write text, a number or null")


@reads("cluster.slurm.environment")
def _environment_can_be_set(config: TrainConfig, world_size: int | None) -> Iterator[Violation]:
    yield from check_environment("cluster.slurm.environment", config.cluster.slurm.environment)


def check_environment(path: str, environment: Mapping[str, object]) -> Iterator[Violation]:
    """Name environment variables that no shell could set."""
    for name, value in environment.items():
        if not _VARIABLE.fullmatch(name):
            fix = "use letters, digits and _, and no digit first"
            yield Violation(path=f"{path}.{name}", value=show(value), rule="is no name of a variable", fix=fix)
        elif value is None or isinstance(value, dict | list):
            rule, fix = "is no single value", "write text or a number, '' for empty text"
            yield Violation(path=f"{path}.{name}", value=show(value), rule=rule, fix=fix)


@reads("cluster.slurm.container.mounts")
def _mounts_have_two_ends(config: TrainConfig, world_size: int | None) -> Iterator[Violation]:
    for number, mount in enumerate(config.cluster.slurm.container.mounts):
        if not _MOUNT.fullmatch(mount):
            yield Violation(
                path=f"cluster.slurm.container.mounts[{number}]",
                value=mount,
                rule="is not SOURCE:TARGET or SOURCE:TARGET:FLAGS",
                fix=f"write {mount.partition(':')[0]}:{mount.partition(':')[0]}",
            )


_LINES = (
    *("partition", "account", "qos", "constraint", "reservation", "exclude", "memory", "gpu_type", "mail_user"),
    *("network_interface", "python"),
)


@reads(*(f"cluster.slurm.{name}" for name in _LINES))
def _values_fit_a_line(config: TrainConfig, world_size: int | None) -> Iterator[Violation]:
    for name in _LINES:
        value = getattr(config.cluster.slurm, name)
        if value is not None and (not value.strip() or not value.isprintable()):
            rule, fix = "is empty, or no single line", "write it in one line, or use null"
            yield Violation(path=f"cluster.slurm.{name}", value=repr(value), rule=rule, fix=fix)


RULES = (
    _warning_comes_before_the_end,
    _options_are_further_ones,
    _environment_can_be_set,
    _mounts_have_two_ends,
    _values_fit_a_line,
)
