"""Check settings of the job on a Slurm cluster."""

import re
from collections.abc import Iterator, Mapping

from trainer.config.rules.rule import reads
from trainer.config.schema import TrainConfig
from trainer.config.slurm import time_limit_seconds
from trireme.config.script_values import check_lines, check_options
from trireme.config.suggest import to_yaml
from trireme.errors import Violation

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_MOUNT = re.compile(r"[^:\n]+:[^:\n]+(:[a-z,]+)?")

REFERENCE = re.compile(
    r"\$\{(?P<name>[A-Za-z_]\w*)(?:(?P<operator>:[-+])(?P<text>(?:\$\{[A-Za-z_]\w*\}|[^{}])*))?\}", re.ASCII
)
"""In a value of cluster.slurm.environment: ${NAME}, ${NAME:-TEXT} or ${NAME:+TEXT}; TEXT may contain ${NAME}."""

_FIELDS = {
    "account": "cluster.slurm.account",
    "constraint": "cluster.slurm.constraint",
    "cpus-per-gpu": "cluster.slurm.cpus_per_gpu",
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
"""Options of sbatch that have a setting of their own."""
_OWN = ("array", "dependency", "job-name", "ntasks", "ntasks-per-node", "open-mode", "output", "requeue", "no-requeue")
"""Options of sbatch that the batch script sets itself."""


_SRUN_FIELDS = {
    **_FIELDS,
    "container-image": "cluster.slurm.container.image",
    "container-mounts": "cluster.slurm.container.mounts",
}
"""Options of srun that have a setting of their own."""
_SRUN_OWN = (*_OWN, "container-workdir", "exact", "kill-on-bad-exit", "multi-prog", "pty", "wait")
"""Options of srun that the batch script sets itself."""


@reads("cluster.slurm.time_limit", "cluster.slurm.warn_seconds")
def _warning_comes_before_the_end(config: TrainConfig, world_size: int | None) -> Iterator[Violation]:
    slurm = config.cluster.slurm
    seconds = time_limit_seconds(slurm.time_limit)
    if not seconds:
        rule, fix = "must be a time limit of sbatch", "Use minutes, HH:MM:SS, D-HH or D-HH:MM:SS."
        yield Violation(path="cluster.slurm.time_limit", value=slurm.time_limit, message=rule, fix=fix)
    elif slurm.warn_seconds * 2 > seconds:
        yield Violation(
            path="cluster.slurm.warn_seconds",
            value=slurm.warn_seconds,
            message=f"must be at most half of cluster.slurm.time_limit={slurm.time_limit}",
            fix=f"Use {seconds // 2} or less." if seconds > 1 else "Use a longer time limit.",
        )


@reads("cluster.slurm.options")
def _options_are_further_ones(config: TrainConfig, world_size: int | None) -> Iterator[Violation]:
    yield from check_options("cluster.slurm.options", config.cluster.slurm.options, fields=_FIELDS, own=_OWN)


@reads("cluster.slurm.srun_options")
def _srun_options_are_further_ones(config: TrainConfig, world_size: int | None) -> Iterator[Violation]:
    given = config.cluster.slurm.srun_options
    yield from check_options("cluster.slurm.srun_options", given, fields=_SRUN_FIELDS, own=_SRUN_OWN)


@reads("cluster.slurm.environment")
def _environment_can_be_set(config: TrainConfig, world_size: int | None) -> Iterator[Violation]:
    environment = config.cluster.slurm.environment
    yield from check_environment("cluster.slurm.environment", environment)
    for name, value in environment.items():
        if isinstance(value, str) and "${" in REFERENCE.sub("", value):
            yield Violation(
                path=f"cluster.slurm.environment.{name}",
                value=value,
                message="every ${ must begin a reference to a variable",
                fix="Use ${NAME}, ${NAME:-TEXT} or ${NAME:+TEXT}.",
            )


def check_environment(path: str, environment: Mapping[str, object]) -> Iterator[Violation]:
    """Report environment variables that a shell cannot set."""
    for name, value in environment.items():
        if not _VARIABLE.fullmatch(name):
            rule, fix = "invalid name of a variable", "Use letters, digits and _, beginning with no digit."
            yield Violation(path=f"{path}.{name}", value="", message=rule, fix=fix)
        elif value is None or isinstance(value, dict | list):
            rule, fix = "must be a single value", "Use a string or a number; '' for an empty string."
            yield Violation(path=f"{path}.{name}", value=to_yaml(value), message=rule, fix=fix)


@reads("cluster.slurm.container.mounts")
def _mounts_have_two_ends(config: TrainConfig, world_size: int | None) -> Iterator[Violation]:
    for number, mount in enumerate(config.cluster.slurm.container.mounts):
        path = f"cluster.slurm.container.mounts[{number}]"
        if "," in ":".join(mount.split(":")[:2]):
            rule, fix = (
                "must not contain a comma, which separates mounts",
                "Mount a directory without a comma in its path.",
            )
            yield Violation(path=path, value=mount, message=rule, fix=fix)
        elif not _MOUNT.fullmatch(mount):
            yield Violation(
                path=path,
                value=mount,
                message="must be SOURCE:TARGET or SOURCE:TARGET:FLAGS",
                fix=f"Use {mount.partition(':')[0]}:{mount.partition(':')[0]}",
            )


_LINES = (
    *("partition", "account", "qos", "constraint", "reservation", "exclude", "memory", "gpu_type", "mail_user"),
    *("network_interface", "python"),
)


@reads("cluster.slurm.rendezvous_host_suffix")
def _suffix_is_of_a_host_name(config: TrainConfig, world_size: int | None) -> Iterator[Violation]:
    suffix = config.cluster.slurm.rendezvous_host_suffix
    if suffix is not None and not re.fullmatch(r"[A-Za-z0-9.-]+", suffix):
        rule, fix = "must be the end of a host name", "Use letters, digits, hyphens and dots, or null."
        path = "cluster.slurm.rendezvous_host_suffix"
        yield Violation(path=path, value=repr(suffix), message=rule, fix=fix)


@reads(*(f"cluster.slurm.{name}" for name in (*_LINES, "mail_type", "container.image")))
def _values_fit_a_line(config: TrainConfig, world_size: int | None) -> Iterator[Violation]:
    slurm = config.cluster.slurm
    values = {name: getattr(slurm, name) for name in _LINES}
    values |= {f"mail_type[{number}]": value for number, value in enumerate(slurm.mail_type)}
    yield from check_lines("cluster.slurm", {**values, "container.image": slurm.container.image})


@reads("cluster.slurm.cpus_per_gpu", "cluster.slurm.cpus_per_task", "cluster.gpus_per_node", "cluster.slurm.gpu_option")
def _cpus_are_counted_once(config: TrainConfig, world_size: int | None) -> Iterator[Violation]:
    slurm = config.cluster.slurm
    if slurm.cpus_per_gpu is None:
        return
    path = "cluster.slurm.cpus_per_gpu"
    if slurm.cpus_per_task is not None:
        rule = f"cannot be combined with cluster.slurm.cpus_per_task={slurm.cpus_per_task}"
        fix = "Set one of them to null."
        yield Violation(path=path, value=slurm.cpus_per_gpu, message=rule, fix=fix)
    if config.cluster.gpus_per_node is None or slurm.gpu_option == "none":
        asked = "cluster.gpus_per_node=null" if slurm.gpu_option != "none" else "cluster.slurm.gpu_option=none"
        rule = f"requires GPUs from Slurm: {asked} requests none"
        fix = "Use null, and set cluster.slurm.cpus_per_task."
        yield Violation(path=path, value=slurm.cpus_per_gpu, message=rule, fix=fix)


RULES = (
    _suffix_is_of_a_host_name,
    _warning_comes_before_the_end,
    _options_are_further_ones,
    _srun_options_are_further_ones,
    _cpus_are_counted_once,
    _environment_can_be_set,
    _mounts_have_two_ends,
    _values_fit_a_line,
)
