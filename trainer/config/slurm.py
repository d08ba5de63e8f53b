"""How a run is queued on a Slurm cluster: the settings `cluster.slurm`."""

import re
from dataclasses import dataclass, field
from typing import Any, Literal

from trireme.config.path_text import MountText, PathText

_TIME_LIMIT = re.compile(r"(?:(?P<days>\d+)-)?(?P<first>\d+)(?::(?P<second>\d+))?(?::(?P<third>\d+))?", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class ContainerConfig:
    """A container that each node's processes run in."""

    image: PathText | None = None
    """Image: a file (.sqsh, .sif) or a registry's address as the runtime writes it; null runs without a container. It
    holds Python with this project's dependencies; the code comes from the run directory."""
    runtime: Literal["pyxis", "apptainer"] = "pyxis"
    """pyxis: the plug-in of srun that starts enroot containers; apptainer: `apptainer exec` in each task."""
    mounts: list[MountText] = field(default_factory=list)
    """Further directories inside, as SOURCE:TARGET or SOURCE:TARGET:ro: those with data and tokenizer. The directory in
    which the job was submitted and output_dir are always there."""


@dataclass(frozen=True, kw_only=True)
class SlurmConfig:
    """The job that `python -m launch.slurm` submits (docs/launch/clusters.md). cluster.num_nodes and
    cluster.gpus_per_node say how large it is; what is null here is left to the cluster's defaults."""

    partition: str | None = None
    """Where it runs."""
    account: str | None = None
    """Whom it is charged to."""
    qos: str | None = None
    """Its quality of service."""
    constraint: str | None = None
    """Features that its nodes must have, such as h100&ib."""
    reservation: str | None = None
    """Reservation that it runs in."""
    exclude: str | None = None
    """Nodes that it must not get, such as n[7-9]; those in the run directory's bad_nodes.jsonl that Slurm knows are
    added."""
    time_limit: str = "24:00:00"
    """Of one start, as sbatch writes it; a longer run requeues itself before it ends, and goes on."""
    warn_seconds: int = 300
    """How long before the time limit the run is told to save and leave: a step and a checkpoint must fit in."""
    max_restarts_without_progress: int = 3
    """Stop for good after so many starts in a row that ended by themselves and brought no newer checkpoint."""
    exclusive: bool = False
    """Ask for whole nodes."""
    cpus_per_task: int | None = None
    """CPUs of a node's one task, which starts all processes of the node; null asks for its devices' share of the node's
    CPUs, as Slurm lists them, or for one per process where there are no devices, unless exclusive or cpus_per_gpu is
    set."""
    cpus_per_gpu: int | None = None
    """CPUs for each GPU, where the cluster wants them asked for so, instead of cpus_per_task."""
    memory: str | None = None
    """Of a node, such as 200G; 0 asks for all of it."""
    gpu_option: Literal["gpus-per-node", "gres", "none"] = "gpus-per-node"
    """How GPUs are asked for; none where the cluster hands them out with the node."""
    gpu_type: str | None = None
    """Type of GPU where the cluster has several, such as h100."""
    mail_user: str | None = None
    """Who is written to."""
    mail_type: list[str] = field(default_factory=list)
    """When: such as [FAIL, REQUEUE, END]."""
    options: dict[str, Any] = field(default_factory=dict)
    """Further options of sbatch by their long names, such as {comment: pretraining}; null for one without a value."""
    srun_options: dict[str, Any] = field(default_factory=dict)
    """Further options of the srun that starts the launchers, by their long names, such as {mpi: none}."""
    rendezvous_port: int | None = None
    """Port of the first node at which the launchers meet, where a firewall leaves only some open; null takes a free one
    from 20000 to 31999, which no system gives to clients."""
    rendezvous_host_suffix: str | None = None
    """What makes a node's name that of its fast network, such as i, where the launchers cannot meet by the other."""
    max_running: int | None = None
    """Jobs of a sweep that run at a time; null sets no limit."""
    modules: list[str] = field(default_factory=list)
    """Environment modules to load, such as [cuda/12.8]."""
    setup: list[str] = field(default_factory=list)
    """Shell lines before the run, in the batch script on the first node."""
    environment: dict[str, Any] = field(default_factory=dict)
    """Environment variables of the run, such as {NCCL_DEBUG: INFO}. ${NAME} stands for the value on the node, and
    ${NAME:-TEXT} and ${NAME:+TEXT} are the shell's: {PATH: '/opt/bin:\\${PATH}'} on the command line."""
    network_interface: str | None = None
    """Network that nodes talk over, such as ib0 (NCCL_SOCKET_IFNAME and GLOO_SOCKET_IFNAME)."""
    python: PathText | None = None
    """Interpreter on the nodes; null takes the one that submits, or python3 of the container."""
    container: ContainerConfig = field(default_factory=ContainerConfig)
    """Container of the run."""


def time_limit_seconds(text: str) -> int | None:
    """Seconds of a time limit in one of sbatch's forms; None for any other text.

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
