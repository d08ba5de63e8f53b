"""Submit runs: copy code and configuration, write the script, call sbatch."""

import contextlib
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from launch.slurm.cli import Request
from launch.slurm.cluster_facts import find_nodes, max_array_size
from launch.slurm.render import Job, directory_of, render_job
from launch.slurm.run_record import (
    Submission,
    add_submission,
    copy_code,
    forget_last_submission,
    new_stamp,
    read_submissions,
)
from launch.slurm.runs import Runs, group_alike, split_evenly
from trainer.config.load import dump_config
from trainer.config.schema import TrainConfig
from trireme.bad_nodes import BAD_NODES_NAME, read_bad_nodes
from trireme.config.override_line import quote_override
from trireme.errors import EXIT_STOPPED, RunStopped, Violation, raise_if_any
from trireme.progress import format_number
from trireme.slurm import SlurmError, ask_slurm, find_alive, submit_script


def plan_jobs(request: Request, runs: Runs) -> list[Job]:
    """Group the runs into jobs: runs with the same Slurm options become one array, or several if it is too large.

    Raises:
        ConfigError: there are more arrays than runs that may run at a time.
    """
    stamp = new_stamp(runs.base_directory)
    arrays = [array for group in group_alike(runs.configs) for array in _split_into_arrays(group)]
    return [
        Job(
            configs=configs,
            stamp=stamp,
            folder=runs.base_directory / "slurm" / stamp,
            title=runs.base_name,
            name="job" if len(arrays) == 1 else f"job_{number}",
            chain=request.chain,
            bad_nodes=_find_bad_nodes(configs),
            max_running=max_running,
        )
        for number, (configs, max_running) in enumerate(arrays)
    ]


def _split_into_arrays(group: list[TrainConfig]) -> list[tuple[list[TrainConfig], int | None]]:
    """Split runs into arrays that Slurm accepts; each gets its share of `max_running`."""
    at_a_time = group[0].cluster.slurm.max_running
    largest = max_array_size() if len(group) > 1 else None
    if largest is None or len(group) <= largest:
        return [(group, at_a_time)]
    parts = split_evenly(group, -(-len(group) // largest))
    if at_a_time is None:
        return [(part, None) for part in parts]
    if at_a_time < len(parts):
        rule = (
            f"must be at least {len(parts)}: these {len(group)} runs need that many job arrays, since Slurm's"
            f" MaxArraySize is {largest}"
        )
        fix = f"Use {len(parts)} or more, or sweep fewer values."
        raise_if_any([Violation(path="cluster.slurm.max_running", value=at_a_time, message=rule, fix=fix)])
    shares = map(len, split_evenly(range(at_a_time), len(parts)))
    return list(zip(parts, shares, strict=True))


def _find_bad_nodes(configs: Sequence[TrainConfig]) -> list[str]:
    """Return the nodes that the runs exclude; warn about those that Slurm does not know, and skip them."""
    places = {host: directory_of(config) for config in configs for host in read_bad_nodes(directory_of(config))}
    nodes = find_nodes(places)
    for host in sorted(host for host, node in nodes.items() if node is None):
        print(
            f"warning: {places[host] / BAD_NODES_NAME}: Slurm does not know the node {host}, so it is not excluded."
            " Correct or remove its line.",
            file=sys.stderr,
        )
    return sorted({node for node in nodes.values() if node is not None})


def show_jobs(jobs: Sequence[Job], *, command: Sequence[str]) -> None:
    """Print the scripts without writing or submitting anything."""
    for job in jobs:
        if len(jobs) > 1:
            print(f"# {job.script_path}")
        print(render_job(job, command=command), end="")


def submit_jobs(jobs: Sequence[Job], *, command: Sequence[str]) -> None:
    """Submit all jobs or none, and print the commands to manage them.

    Raises:
        ConfigError: a job of one of the runs is pending or running.
        RunStopped: a file cannot be written.
        SlurmError: Slurm rejects a job.
    """
    configs = [config for job in jobs for config in job.configs]
    raise_if_any(_find_running(configs))
    folder, stamp = jobs[0].folder, jobs[0].stamp
    places = {folder, *(directory_of(config) / "slurm" / stamp for config in configs)}
    new_directories = {parent for place in places for parent in place.parents if not parent.exists()}
    submitted: list[str] = []
    try:
        folder.mkdir(parents=True)
        copy_code(folder / "code")
        for job in jobs:
            _write(job, command=command)
        chains = [_submit_chain(job, submitted) for job in jobs]
        for job, numbers in zip(jobs, chains, strict=True):
            _record(job, numbers)
    except BaseException as error:
        _cancel(submitted)
        for place in places:
            with contextlib.suppress(OSError):
                forget_last_submission(place.parents[1], stamp)
            shutil.rmtree(place, ignore_errors=True)
        for directory in sorted(new_directories, key=lambda path: len(path.parts), reverse=True):
            with contextlib.suppress(OSError):  # another process has written something there meanwhile
                directory.rmdir()
        if isinstance(error, OSError):
            raise RunStopped(_explain_unwritten(folder, error), exit_code=EXIT_STOPPED) from error
        raise
    for job, numbers in zip(jobs, chains, strict=True):
        print("\n".join(_explain(job, numbers)))


def _cancel(numbers: Sequence[str]) -> None:
    try:
        if numbers:
            ask_slurm("scancel", *numbers)
    except SlurmError as error:  # the error that made it necessary is still to be reported
        print(f"warning: failed to cancel the submitted jobs: {error}", file=sys.stderr)


def _explain_unwritten(folder: Path, error: OSError) -> str:
    # The copy of a tree collects the failures of all files.
    reason = error.args[0][-1][-1] if isinstance(error, shutil.Error) else error.strerror or error
    return (
        f"{folder}: failed to write the files of the submission: {reason}. Nothing was submitted."
        " Free disk space there, or set output_dir to a directory on another file system."
    )


def _find_running(configs: Sequence[TrainConfig]) -> Iterator[Violation]:
    jobs = {job: config for config in configs for one in read_submissions(directory_of(config)) for job in one.jobs}
    for job in find_alive(jobs):
        yield Violation(
            path="run_name",
            value=jobs[job].run_name,
            message=f"job {job} of this run is still pending or running",
            fix="Wait for it, stop it with action=stop, or use another run_name.",
        )


def _write(job: Job, *, command: Sequence[str]) -> None:
    for config in job.configs:
        place = directory_of(config) / "slurm" / job.stamp
        place.mkdir(parents=True, exist_ok=True)
        (place / "config.yaml").write_text(dump_config(config), encoding="utf-8")
    job.script_path.write_text(render_job(job, command=command), encoding="utf-8")


def _submit_chain(job: Job, submitted: list[str]) -> list[str]:
    numbers: list[str] = []
    # In arrays, each element depends on the one with the same index.
    kind = "aftercorr" if len(job.configs) > 1 else "afterok"
    for _ in range(job.chain):
        dependency = f"{kind}:{numbers[-1]}" if numbers else None
        numbers.append(submit_script(job.script_path, dependency=dependency))
        submitted.append(numbers[-1])
        if job.chain > 1:
            job.chain_path.write_text("".join(f"{number}\n" for number in numbers), encoding="utf-8")
    return numbers


def _record(job: Job, numbers: Sequence[str]) -> None:
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
    what = f"run {config.run_name}" if len(job.configs) == 1 else f"job array of {len(job.configs)} runs"
    yield f"submitted  {' then '.join(numbers)}: {what}, {size}"
    yield f"script     {_short(job.script_path)}"
    for one in job.configs if len(job.configs) > 1 else ():
        yield f"run        {_short(directory_of(one))}"
    same = [f"run_name={config.run_name}"]
    if config.output_dir != TrainConfig.__dataclass_fields__["output_dir"].default:
        same.append(quote_override("output_dir", config.output_dir))
    for word, action in {"follow": "logs follow=true", "status": "status", "stop": "stop"}.items():
        yield f"{word:<10} trireme slurm {' '.join(same)} action={action}"


def _short(path: Path) -> str:
    """Return the path relative to the working directory if it is inside it."""
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)
