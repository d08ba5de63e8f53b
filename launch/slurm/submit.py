"""Submission: code and configuration are copied, the script is written, Slurm takes it."""

import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from launch.slurm.records import Submission, add_submission, read_submissions
from launch.slurm.render import Job, directory_of, render_job
from launch.slurm.request import Request
from launch.slurm.runs import Runs, group_alike
from launch.slurm.snapshot import copy_code, new_stamp
from trainer.common.bad_nodes import read_bad_nodes
from trainer.common.errors import Violation, raise_if_any
from trainer.common.progress import format_number
from trainer.common.slurm import ask_slurm, find_alive, submit_script
from trainer.config.load import dump_config
from trainer.config.override_line import quote_override
from trainer.config.schema import TrainConfig


def plan_jobs(request: Request, runs: Runs) -> list[Job]:
    """Put the runs into jobs: those that ask for the same become one array."""
    stamp = new_stamp(runs.base_directory)
    groups = group_alike(runs.configs)
    return [
        Job(
            configs=group,
            stamp=stamp,
            folder=runs.base_directory / "slurm" / stamp,
            title=runs.base_name,
            name="job" if len(groups) == 1 else f"job_{number}",
            chain=request.chain,
            bad_nodes=sorted({node for config in group for node in read_bad_nodes(directory_of(config))}),
        )
        for number, group in enumerate(groups)
    ]


def show_jobs(jobs: Sequence[Job], *, command: Sequence[str]) -> None:
    """Print the scripts that would be submitted; nothing is written."""
    for job in jobs:
        if len(jobs) > 1:
            print(f"# {job.script_path}")
        print(render_job(job, command=command), end="")


def submit_jobs(jobs: Sequence[Job], *, command: Sequence[str]) -> None:
    """Submit all jobs or none, and say how to follow them.

    Raises:
        ConfigError: a job of one of the runs is not over.
        SlurmError: Slurm refuses one.
    """
    configs = [config for job in jobs for config in job.configs]
    raise_if_any(_find_running(configs))
    folder, stamp = jobs[0].folder, jobs[0].stamp
    folder.mkdir(parents=True)
    submitted: list[str] = []
    try:
        copy_code(folder / "code")
        for job in jobs:
            _write(job, command=command)
        chains = [_submit_chain(job, submitted) for job in jobs]
    except BaseException:
        if submitted:
            ask_slurm("scancel", *submitted)
        for place in {folder, *(directory_of(config) / "slurm" / stamp for config in configs)}:
            shutil.rmtree(place, ignore_errors=True)
        raise
    for job, numbers in zip(jobs, chains, strict=True):
        _remember(job, numbers)
        print("\n".join(_explain(job, numbers)))


def _find_running(configs: Sequence[TrainConfig]) -> Iterator[Violation]:
    jobs = {job: config for config in configs for one in read_submissions(directory_of(config)) for job in one.jobs}
    for job in find_alive(jobs):
        yield Violation(
            path="run_name",
            value=jobs[job].run_name,
            rule=f"is the run of job {job}, which is not over",
            fix="wait for it, end it with action=stop, or choose another run_name",
        )


def _write(job: Job, *, command: Sequence[str]) -> None:
    for config in job.configs:
        place = directory_of(config) / "slurm" / job.stamp
        place.mkdir(parents=True, exist_ok=True)
        (place / "config.yaml").write_text(dump_config(config), encoding="utf-8")
    job.script_path.write_text(render_job(job, command=command), encoding="utf-8")


def _submit_chain(job: Job, submitted: list[str]) -> list[str]:
    numbers: list[str] = []
    # Of arrays: each element behind the one of the same number.
    kind = "aftercorr" if len(job.configs) > 1 else "afterok"
    for _ in range(job.chain):
        dependency = f"{kind}:{numbers[-1]}" if numbers else None
        numbers.append(submit_script(job.script_path, dependency=dependency))
        submitted.append(numbers[-1])
        if job.chain > 1:
            job.chain_path.write_text("".join(f"{number}\n" for number in numbers), encoding="utf-8")
    return numbers


def _remember(job: Job, numbers: Sequence[str]) -> None:
    for index, config in enumerate(job.configs):
        is_array = len(job.configs) > 1
        names = [f"{number}_{index}" if is_array else number for number in numbers]
        add_submission(
            directory_of(config),
            Submission(
                stamp=job.stamp,
                jobs=tuple(names),
                script=str(job.script_path),
                outputs=tuple(str(job.folder / f"{name}.out") for name in names),
            ),
        )


def _explain(job: Job, numbers: Sequence[str]) -> Iterator[str]:
    config = job.configs[0]
    cluster = config.cluster
    each = f" with {format_number(cluster.gpus_per_node, 'GPU')} each" if cluster.gpus_per_node else ""
    size = f"{format_number(cluster.num_nodes, 'node')}{each}, {cluster.slurm.time_limit} each"
    what = f"run {config.run_name}" if len(job.configs) == 1 else f"array of {len(job.configs)} runs"
    yield f"submitted  {' then '.join(numbers)}: {what}, {size}"
    yield f"script     {_short(job.script_path)}"
    for one in job.configs if len(job.configs) > 1 else ():
        yield f"run        {_short(directory_of(one))}"
    same = [f"run_name={config.run_name}"]
    if config.output_dir != TrainConfig.__dataclass_fields__["output_dir"].default:
        same.append(quote_override("output_dir", config.output_dir))
    for word, action in {"follow": "logs follow=true", "status": "status", "stop": "stop"}.items():
        yield f"{word:<10} python -m launch.slurm {' '.join(same)} action={action}"


def _short(path: Path) -> str:
    """Relative to this directory where it lies inside."""
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)
