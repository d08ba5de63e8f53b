"""Each rule about the job on a Slurm cluster, broken once; the form is that of rule_cases.py."""

SLURM_CASES: list[tuple[list[str], int | None, str, list[str | int]]] = [
    (
        ["cluster.slurm.time_limit=tomorrow"],
        None,
        "cluster.slurm.time_limit=tomorrow is no time limit that sbatch knows; write minutes, HH:MM:SS, D-HH or"
        " D-HH:MM:SS",
        [f"cluster.slurm.time_limit='{text}'" for text in ("90", "01:30:00", "1-12", "1-12:30:00")],
    ),
    (
        ["cluster.slurm.time_limit='5:00'"],
        None,
        "cluster.slurm.warn_seconds=300 is more than half of cluster.slurm.time_limit=5:00, so little is trained before"
        " the warning; use 150 or less",
        ["cluster.slurm.warn_seconds=150"],
    ),
    (
        ["cluster.slurm.container.mounts=[/data]"],
        None,
        "cluster.slurm.container.mounts[0]=/data is not SOURCE:TARGET or SOURCE:TARGET:FLAGS; write /data:/data",
        ["cluster.slurm.container.mounts=['/data:/data']", "cluster.slurm.container.mounts=['/data:/data:ro']"],
    ),
    (
        ["cluster.slurm.partition=''"],
        None,
        "cluster.slurm.partition='' is empty, or no single line; write it in one line, or use null",
        ["cluster.slurm.partition=null", "cluster.slurm.partition=gpu"],
    ),
    (
        ["cluster.slurm.mail_type=['END\n#SBATCH --exclusive']"],
        None,
        r"cluster.slurm.mail_type[0]='END\n#SBATCH --exclusive' is empty, or no single line; write it in one line, or"
        " use null",
        ["cluster.slurm.mail_type=[END]"],
    ),
    (
        ["cluster.gpus_per_node=2", "cluster.slurm.cpus_per_gpu=4", "cluster.slurm.cpus_per_task=8"],
        2,
        "cluster.slurm.cpus_per_gpu=4 says what cluster.slurm.cpus_per_task=8 says, too; use null for one of them",
        ["cluster.slurm.cpus_per_gpu=null", "cluster.slurm.cpus_per_task=null"],
    ),
    (
        ["cluster.slurm.cpus_per_gpu=4"],
        None,
        "cluster.slurm.cpus_per_gpu=4 counts CPUs for each GPU, and cluster.gpus_per_node=null asks Slurm for none; use"
        " null, and cluster.slurm.cpus_per_task",
        ["cluster.slurm.cpus_per_gpu=null"],
    ),
]

MAPPING_CASES: list[tuple[str, str, str]] = [
    (
        "cluster.slurm.options={--Nice: 5}",
        "cluster.slurm.options.--Nice=5 is no long name of an option; write nice",
        "cluster.slurm.options={nice: 5}",
    ),
    (
        "cluster.slurm.options={partition: long}",
        "cluster.slurm.options.partition=long is an option with a field of its own; set cluster.slurm.partition",
        "cluster.slurm.partition=long",
    ),
    (
        "cluster.slurm.options={array: 0-3}",
        "cluster.slurm.options.array=0-3 is what the script itself decides on; leave it out",
        "cluster.slurm.options={}",
    ),
    (
        "cluster.slurm.options={comment: [a, b]}",
        "cluster.slurm.options.comment=[a, b] is no single value; write text, a number or null",
        "cluster.slurm.options={comment: null}",
    ),
    (
        "cluster.slurm.options={comment: 'a\n#SBATCH --exclusive'}",
        r"cluster.slurm.options.comment='a\n#SBATCH --exclusive' is no single line; write it in one line",
        "cluster.slurm.options={comment: 'a #SBATCH --exclusive'}",
    ),
    (
        "cluster.slurm.srun_options={cpus-per-task: 3}",
        "cluster.slurm.srun_options.cpus-per-task=3 is an option with a field of its own; set"
        " cluster.slurm.cpus_per_task",
        "cluster.slurm.cpus_per_task=3",
    ),
    (
        "cluster.slurm.srun_options={wait: 3}",
        "cluster.slurm.srun_options.wait=3 is what the script itself decides on; leave it out",
        "cluster.slurm.srun_options={mpi: none}",
    ),
    (
        r"cluster.slurm.environment={A: 'x\${B'}",
        "cluster.slurm.environment.A=x${B holds a ${ that refers to no variable; write ${NAME}, ${NAME:-TEXT} or"
        " ${NAME:+TEXT}",
        r"cluster.slurm.environment={A: 'x\${B}'}",
    ),
    (
        "cluster.slurm.environment={NCCL-DEBUG: INFO}",
        "cluster.slurm.environment.NCCL-DEBUG=INFO is no name of a variable; use letters, digits and _, and no digit"
        " first",
        "cluster.slurm.environment={NCCL_DEBUG: INFO}",
    ),
    (
        "cluster.slurm.environment={NCCL_DEBUG: null}",
        "cluster.slurm.environment.NCCL_DEBUG=null is no single value; write text or a number, '' for empty text",
        "cluster.slurm.environment={NCCL_DEBUG: 1}",
    ),
]
"""What is wrong with a mapping, and what to write instead. A mapping is added to, so the two do not go together."""
