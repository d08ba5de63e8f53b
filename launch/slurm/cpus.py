"""Choose the CPUs of a node's task when the configuration sets none: Slurm's default is one CPU for all processes."""

import re
from collections.abc import Iterator, Mapping

from launch.cli import processes_per_node
from trainer.config.schema import TrainConfig
from trireme.slurm import SlurmError, ask_slurm

_GPUS = re.compile(r"\bgpu(?::(?P<type>[^:,()]+))?:(?P<count>\d+)")


def cpus_per_task(config: TrainConfig) -> int | None:
    """Return the CPUs to request; None when exclusive nodes, cpus_per_gpu or the partition's defaults decide.

    Devices get their share of the CPUs of the partition's smallest nodes. Without devices, and when no cluster can be
    queried, as in a dry run elsewhere, each process gets one CPU.
    """
    slurm = config.cluster.slurm
    if slurm.cpus_per_task is not None or slurm.exclusive or slurm.cpus_per_gpu is not None:
        return slurm.cpus_per_task
    num_processes = processes_per_node(config)
    try:
        partitions = list(find_partitions(slurm.partition))
        if slurm.gpu_option != "none" and any("DefCpuPerGPU=" in one.get("JobDefaults", "") for one in partitions):
            return None
        shares = [share for one in partitions for share in _find_shares(config, one)]
    except SlurmError:
        shares = []
    if not shares:
        return num_processes
    return min(shares) if config.cluster.gpus_per_node is not None else min(num_processes, *shares)


def find_partitions(names: str | None) -> Iterator[dict[str, str]]:
    """Yield the partitions that a job may run in, as `scontrol show partition` describes them.

    Args:
        names: separated by commas; None selects the default one.
    Raises:
        SlurmError: Slurm is not installed or refuses the command.
    """
    for partition in _records("partition"):
        is_named = partition.get("PartitionName") in (names or "").split(",")
        if is_named or (names is None and partition.get("Default") == "YES"):
            yield partition


def _find_shares(config: TrainConfig, partition: Mapping[str, str]) -> Iterator[int]:
    """Yield the CPUs for the run's devices on each node that has enough of them; all CPUs for a run without devices."""
    wanted, gpu_type = config.cluster.gpus_per_node, config.cluster.slurm.gpu_type
    most = partition.get("MaxCPUsPerNode", "")
    nodes = partition.get("Nodes", "(null)")
    for node in _records("node", nodes) if nodes != "(null)" else ():
        cpus = int(node.get("CPUEfctv") or node["CPUTot"])  # without those that Slurm reserves for the system
        cpus = min(cpus, int(most)) if most.isdecimal() else cpus
        gpus = sum(
            int(found["count"]) for found in _GPUS.finditer(node.get("Gres", "")) if gpu_type in (None, found["type"])
        )
        if wanted is None or (gpus == 0 and config.cluster.slurm.gpu_option == "none"):
            yield cpus
        elif gpus >= wanted:
            yield max(1, cpus * wanted // gpus)


def _records(kind: str, *names: str) -> Iterator[dict[str, str]]:
    for line in ask_slurm("scontrol", "--oneliner", "show", kind, *names).splitlines():
        yield dict(field.partition("=")[::2] for field in line.split() if "=" in field)
