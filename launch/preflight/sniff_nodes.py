"""The sniff test as a small Slurm job: one launcher on each node, all under one srun that waits for its turn."""

import os
import secrets
import shlex
from pathlib import Path

from launch.nodes import check_nodes, processes_per_node
from launch.preflight.finding import Finding, skipped
from launch.preflight.sniff import run_sniff
from launch.slurm.cpus import cpus_per_task
from launch.slurm.render import (
    container_prefix,
    environment_of,
    placement_options,
    python_on_nodes,
    rendezvous_port,
    srun_options,
)
from trainer.config.schema import TrainConfig
from trainer.config.validate import needed_packages
from trireme.files import nearest_existing
from trireme.slurm import merge_options

TIME_LIMIT = "10"
"""Minutes that the job may run."""


def sniff_nodes(config: TrainConfig, *, run_directory: Path) -> Finding:
    """Measure as many nodes as the run takes, placed as the run will be."""
    if list(check_nodes(config)):
        return skipped("sniff", "processes cannot be shared out to nodes")
    return run_sniff(
        build_srun(config),
        directory=nearest_existing(run_directory),
        environment=os.environ,
        run_directory=run_directory,
        needed=needed_packages(config),
    )


def build_srun(config: TrainConfig) -> list[str]:
    """The command up to the module that every node's processes run."""
    slurm, cpus = config.cluster.slurm, cpus_per_task(config)
    options = {"job-name": "trireme-preflight", "time": TIME_LIMIT, **placement_options(config, cpus=cpus)}
    flags = {"quiet": None, **({"exclusive": None} if slurm.exclusive else {}), **slurm.options}
    # srun's long options are sbatch's.
    asked = [
        f"--{name}" + ("" if value is None else f"={value}")
        for name, value in merge_options(options, further=flags).items()
    ]
    asked += [word for option in srun_options(config, cpus=cpus) for word in shlex.split(option)]
    before = [f"module load {shlex.quote(module)} || exit" for module in slurm.modules]
    before += slurm.setup
    before += [f"export {name}={value}" for name, value in environment_of(config).items()]
    before.append('export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"')
    torchrun = (
        f"{container_prefix(config)}{shlex.quote(python_on_nodes(config))} -m trainer.torchrun"
        f' --nnodes "$SLURM_JOB_NUM_NODES" --nproc-per-node {processes_per_node(config)} --rdzv-backend c10d'
        ' --rdzv-endpoint "$first:$port"'
        f" --rdzv-id sniff-{secrets.token_hex(4)}"
    )
    first = 'first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)'
    # What listens there already would be taken for the first node's launcher, and all would wait for it.
    port = [
        f"port={rendezvous_port(config)}",
        'is_held() { (: <"/dev/tcp/$1/$port") 2>/dev/null; }',
        'if [ "$SLURM_NODEID" = 0 ] && { is_held 127.0.0.1 || is_held "$first"; }; then',
        '  echo "another process listens at port $port of $first; set cluster.slurm.rendezvous_port" >&2',
        "  exit 1",
        "fi",
    ]
    script = "\n".join([*before, first, *port, f'exec {torchrun} "$@"'])
    return ["srun", *asked, "bash", "-c", script, "sniff"]
