"""Each rule about the job on a Slurm cluster, broken once; see rule_cases.py."""

SLURM_CASES: list[tuple[list[str], int | None, str, list[str | int]]] = [
    (
        ["cluster.slurm.time_limit=tomorrow"],
        None,
        "cluster.slurm.time_limit: must be a time limit of sbatch (got tomorrow). Use minutes, HH:MM:SS, D-HH or"
        " D-HH:MM:SS.",
        [f"cluster.slurm.time_limit='{text}'" for text in ("90", "01:30:00", "1-12", "1-12:30:00")],
    ),
    (
        ["cluster.slurm.time_limit='5:00'"],
        None,
        "cluster.slurm.warn_seconds: must be at most half of cluster.slurm.time_limit=5:00 (got 300). Use 150 or less.",
        ["cluster.slurm.warn_seconds=150"],
    ),
    (
        ["cluster.slurm.container.mounts=[/data]"],
        None,
        "cluster.slurm.container.mounts[0]: must be SOURCE:TARGET or SOURCE:TARGET:FLAGS (got /data). Use /data:/data",
        ["cluster.slurm.container.mounts=['/data:/data']", "cluster.slurm.container.mounts=['/data:/data:ro']"],
    ),
    (
        ["cluster.slurm.partition=''"],
        None,
        "cluster.slurm.partition: must be a single, non-empty line (got ''). Write it in one line, or use null.",
        ["cluster.slurm.partition=null", "cluster.slurm.partition=gpu"],
    ),
    (
        ["cluster.slurm.mail_type=['END\n#SBATCH --exclusive']"],
        None,
        "cluster.slurm.mail_type[0]: must be a single, non-empty line (got 'END\\n#SBATCH --exclusive'). Write it in"
        " one line, or use null.",
        ["cluster.slurm.mail_type=[END]"],
    ),
    (
        ["cluster.gpus_per_node=2", "cluster.slurm.cpus_per_gpu=4", "cluster.slurm.cpus_per_task=8"],
        2,
        "cluster.slurm.cpus_per_gpu: cannot be combined with cluster.slurm.cpus_per_task=8 (got 4). Set one of them"
        " to null.",
        ["cluster.slurm.cpus_per_gpu=null", "cluster.slurm.cpus_per_task=null"],
    ),
    (
        ["cluster.slurm.cpus_per_gpu=4"],
        None,
        "cluster.slurm.cpus_per_gpu: requires GPUs from Slurm: cluster.gpus_per_node=null requests none (got 4). Use"
        " null, and set cluster.slurm.cpus_per_task.",
        ["cluster.slurm.cpus_per_gpu=null"],
    ),
]

MAPPING_CASES: list[tuple[str, str, str]] = [
    (
        "cluster.slurm.options={--Nice: 5}",
        "cluster.slurm.options.--Nice: must be the long name of an option, without dashes in front (got 5). Use nice.",
        "cluster.slurm.options={nice: 5}",
    ),
    (
        "cluster.slurm.options={partition: long}",
        "cluster.slurm.options.partition: this option is controlled by a setting of its own (got long). Set"
        " cluster.slurm.partition instead.",
        "cluster.slurm.partition=long",
    ),
    (
        "cluster.slurm.options={array: 0-3}",
        "cluster.slurm.options.array: this option is set by the batch script itself (got 0-3). Remove it.",
        "cluster.slurm.options={}",
    ),
    (
        "cluster.slurm.options={comment: [a, b]}",
        "cluster.slurm.options.comment: must be a single value (got [a, b]). Use a string, a number or null.",
        "cluster.slurm.options={comment: null}",
    ),
    (
        "cluster.slurm.options={comment: 'a\n#SBATCH --exclusive'}",
        "cluster.slurm.options.comment: must be a single line (got 'a\\n#SBATCH --exclusive'). Remove the line breaks.",
        "cluster.slurm.options={comment: 'a #SBATCH --exclusive'}",
    ),
    (
        "cluster.slurm.srun_options={cpus-per-task: 3}",
        "cluster.slurm.srun_options.cpus-per-task: this option is controlled by a setting of its own (got 3). Set"
        " cluster.slurm.cpus_per_task instead.",
        "cluster.slurm.cpus_per_task=3",
    ),
    (
        "cluster.slurm.srun_options={wait: 3}",
        "cluster.slurm.srun_options.wait: this option is set by the batch script itself (got 3). Remove it.",
        "cluster.slurm.srun_options={mpi: none}",
    ),
    (
        r"cluster.slurm.environment={A: 'x\${B'}",
        "cluster.slurm.environment.A: every ${ must begin a reference to a variable (got x${B). Use ${NAME},"
        " ${NAME:-TEXT} or ${NAME:+TEXT}.",
        r"cluster.slurm.environment={A: 'x\${B}'}",
    ),
    (
        "cluster.slurm.environment={NCCL-DEBUG: INFO}",
        "cluster.slurm.environment.NCCL-DEBUG: invalid name of a variable. Use letters, digits and _, beginning with"
        " no digit.",
        "cluster.slurm.environment={NCCL_DEBUG: INFO}",
    ),
    (
        "cluster.slurm.environment={NCCL_DEBUG: null}",
        "cluster.slurm.environment.NCCL_DEBUG: must be a single value (got null). Use a string or a number; '' for an"
        " empty string.",
        "cluster.slurm.environment={NCCL_DEBUG: 1}",
    ),
]
"""A bad mapping, its message, and a good one. Overrides of a mapping are merged, so the two are tested separately."""
