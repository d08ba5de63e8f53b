"""Check that Slurm would accept the job of a run: partition, account, limits and devices."""

from collections.abc import Iterator

from launch.cli import check_nodes, processes_per_node
from launch.preflight.finding import Finding, judge, skipped, warn
from launch.slurm.cpus import cpus_per_task, find_partitions
from launch.slurm.render import Job, check_paths, directory_of, render_job
from trainer.config.schema import TrainConfig
from trainer.config.slurm import SlurmConfig, time_limit_seconds
from trireme.errors import Violation
from trireme.progress import format_number
from trireme.slurm import SlurmError, ask_slurm, try_script

_SETTINGS = {
    "partition": "cluster.slurm.partition (sinfo lists them)",
    "account": "cluster.slurm.account",
    "qos": "cluster.slurm.qos",
    "time limit": "cluster.slurm.time_limit",
    "reservation": "cluster.slurm.reservation",
    "feature": "cluster.slurm.constraint",
    "generic resource": "cluster.gpus_per_node, cluster.slurm.gpu_type or cluster.slurm.gpu_option",
    "gres": "cluster.gpus_per_node, cluster.slurm.gpu_type or cluster.slurm.gpu_option",
    "memory": "cluster.slurm.memory",
    "node name": "cluster.slurm.exclude",
    "node configuration": "cluster.num_nodes, cluster.gpus_per_node, cluster.slurm.cpus_per_task or"
    " cluster.slurm.memory: no node of the partition satisfies them",
    "node count": "cluster.num_nodes",
}
"""Words of Slurm's error messages, and the settings that they refer to."""


def check_slurm(config: TrainConfig) -> Finding:
    """Test the job with `sbatch --test-only`, which queues nothing.

    Args:
        config: a valid one.
    """
    try:
        ask_slurm("scontrol", "ping")
    except SlurmError:
        return skipped("slurm", "Slurm is not available on this host")
    if list(check_nodes(config)):
        return skipped("slurm", "cluster.num_nodes does not divide the number of processes")
    if problems := list(check_paths(config)):
        return judge("slurm", problems, otherwise="")
    folder = directory_of(config) / "slurm" / "preflight"
    job = Job(configs=[config], stamp=folder.name, folder=folder, title=config.run_name)
    try:
        said = try_script(render_job(job, command=["trireme", "preflight"]))
    except SlurmError as error:
        # Without any Slurm setting, the user may not intend to use Slurm.
        is_intended = config.cluster.slurm != SlurmConfig() or config.cluster.num_nodes > 1
        return (judge if is_intended else warn)("slurm", [_explain(str(error))], otherwise="")
    if limits := list(_check_limits(config)):
        return judge("slurm", limits, otherwise="")
    return warn("slurm", _check_cpus(config), otherwise=said)


def _explain(refusal: str) -> Violation:
    settings = [setting for word, setting in _SETTINGS.items() if word in refusal.lower()]
    fix = f"Change {settings[0]}." if settings else "Ask the cluster's administrators."
    return Violation(path="sbatch", value="", message=f"rejected the job: {refusal}", fix=fix)


def _check_limits(config: TrainConfig) -> Iterator[Violation]:
    """Report exceeded partition limits: where they are not enforced, sbatch accepts a job that never starts."""
    partitions = list(find_partitions(config.cluster.slurm.partition))
    times = [time_limit_seconds(one.get("MaxTime", "")) for one in partitions]
    wanted = time_limit_seconds(config.cluster.slurm.time_limit)
    if times and wanted and all(longest is not None and longest < wanted for longest in times):
        yield Violation(
            path="cluster.slurm.time_limit",
            value=config.cluster.slurm.time_limit,
            message="exceeds the partition's MaxTime, so the job would never start",
            fix=f"Use {' or '.join(one['MaxTime'] for one in partitions)} or less.",
        )
    sizes = [one.get("MaxNodes", "") for one in partitions]
    if sizes and all(size.isdecimal() and int(size) < config.cluster.num_nodes for size in sizes):
        yield Violation(
            path="cluster.num_nodes",
            value=config.cluster.num_nodes,
            message="exceeds the partition's MaxNodes, so the job would never start",
            fix=f"Use {max(map(int, sizes))} or less, or another cluster.slurm.partition.",
        )


def _check_cpus(config: TrainConfig) -> Iterator[Violation]:
    cpus, num_processes = cpus_per_task(config), processes_per_node(config)
    if cpus is not None and cpus < num_processes:
        is_named = config.cluster.slurm.cpus_per_task is not None
        yield Violation(
            path="cluster.slurm.cpus_per_task",
            value=cpus if is_named else f"null, which means {cpus} here",
            message=f"fewer CPUs than the {format_number(num_processes, 'process')} of a node, which share cores",
            fix=f"Use {num_processes} or more, or cluster.slurm.exclusive=true.",
        )
