"""Define the settings `cluster.slurm`: the job of a run on a Slurm cluster."""

import re
from dataclasses import dataclass, field
from typing import Any, Literal

from trireme.config.path_text import MountText, PathText

_TIME_LIMIT = re.compile(r"(?:(?P<days>\d+)-)?(?P<first>\d+)(?::(?P<second>\d+))?(?::(?P<third>\d+))?", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class ContainerConfig:
    """A container in which each node's processes run."""

    image: PathText | None = None
    """Image: a file (.sqsh, .sif) or a registry's address in the runtime's notation; null runs without a container. It
    contains Python with this project's dependencies; the code comes from the run directory."""
    runtime: Literal["pyxis", "apptainer"] = "pyxis"
    """pyxis, the plug-in of srun that starts enroot containers, or apptainer, which runs `apptainer exec` in each
    task."""
    mounts: list[MountText] = field(default_factory=list)
    """Additional mounts as SOURCE:TARGET or SOURCE:TARGET:ro, such as those with data and tokenizer. The directory from
    which the job is submitted and output_dir are always mounted."""


@dataclass(frozen=True, kw_only=True)
class SlurmConfig:
    """The job that `trireme slurm` submits (docs/launch/clusters.md). Its size is set by
    cluster.num_nodes and cluster.gpus_per_node; null leaves a setting to the cluster's default."""

    partition: str | None = None
    """Partition."""
    account: str | None = None
    """Account that is charged."""
    qos: str | None = None
    """Quality of service."""
    constraint: str | None = None
    """Node features to require, such as h100&ib."""
    reservation: str | None = None
    """Reservation."""
    exclude: str | None = None
    """Nodes to exclude, such as n[7-9]; those in the run directory's bad_nodes.jsonl that Slurm knows are added."""
    time_limit: str = "24:00:00"
    """Time limit of one start, in sbatch's notation; a longer run requeues itself before the limit and resumes."""
    warn_seconds: int = 300
    """Seconds before the time limit at which the run is signaled to save and exit: one step and one checkpoint must
    fit."""
    max_restarts_without_progress: int = 3
    """Stop requeueing after this many consecutive starts that ended on their own without a newer checkpoint."""
    exclusive: bool = False
    """Request whole nodes."""
    cpus_per_task: int | None = None
    """CPUs of the one task per node, which starts all processes of the node; null requests its devices' share of the
    node's CPUs, as Slurm lists them, or one CPU per process without devices, unless exclusive or cpus_per_gpu is
    set."""
    cpus_per_gpu: int | None = None
    """CPUs per GPU, instead of cpus_per_task, on clusters that require it."""
    memory: str | None = None
    """Memory per node, such as 200G; 0 requests all of it."""
    gpu_option: Literal["gpus-per-node", "gres", "none"] = "gpus-per-node"
    """Option that requests GPUs; none where the cluster allocates them with the node."""
    gpu_type: str | None = None
    """Type of GPU, such as h100, on clusters with several."""
    mail_user: str | None = None
    """User who is notified."""
    mail_type: list[str] = field(default_factory=list)
    """Events to notify about, such as [FAIL, REQUEUE, END]."""
    options: dict[str, Any] = field(default_factory=dict)
    """Additional options of sbatch by their long names, such as {comment: pretraining}; null for one without a
    value."""
    srun_options: dict[str, Any] = field(default_factory=dict)
    """Additional options of the srun that starts the launchers, by their long names, such as {mpi: none}."""
    rendezvous_port: int | None = None
    """Rendezvous port on the first node, where a firewall opens only some; null takes a free one from 20000 to 31999,
    outside the range of ephemeral ports."""
    rendezvous_host_suffix: str | None = None
    """Suffix that turns a node's name into that of its fast network, such as i, where the plain name is not
    reachable."""
    max_running: int | None = None
    """Maximum number of concurrent jobs of a sweep; null sets no limit."""
    modules: list[str] = field(default_factory=list)
    """Environment modules to load, such as [cuda/12.8]."""
    setup: list[str] = field(default_factory=list)
    """Shell lines to run before the start, in the batch script on the first node."""
    environment: dict[str, Any] = field(default_factory=dict)
    """Environment variables of the run, such as {NCCL_DEBUG: INFO}. ${NAME} is replaced by the value on the node, and
    ${NAME:-TEXT} and ${NAME:+TEXT} work as in the shell: {PATH: '/opt/bin:\\${PATH}'} on the command line."""
    network_interface: str | None = None
    """Network interface between nodes, such as ib0 (NCCL_SOCKET_IFNAME and GLOO_SOCKET_IFNAME)."""
    python: PathText | None = None
    """Python interpreter on the nodes; null takes the one that submits, or python3 of the container."""
    container: ContainerConfig = field(default_factory=ContainerConfig)
    """Container of the run."""


def time_limit_seconds(text: str) -> int | None:
    """Convert a time limit in one of sbatch's forms to seconds; return None for any other text.

    The forms: minutes, minutes:seconds, hours:minutes:seconds, days-hours, days-hours:minutes and
    days-hours:minutes:seconds.
    """
    match = _TIME_LIMIT.fullmatch(text)
    if match is None:
        return None
    days, *parts = (None if part is None else int(part) for part in match.groups())
    given = [part for part in parts if part is not None]
    units = (3600, 60, 1) if days is not None or len(given) == 3 else (60, 1)
    return (days or 0) * 86400 + sum(part * unit for part, unit in zip(given, units, strict=False))
