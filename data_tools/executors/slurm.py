"""The executor slurm: submit a preparation as a chain of jobs; reading and tokenizing are job arrays.

The script of every job is slurm/data_prep.sbatch, filled in. Each job resumes from the stage cache, so a requeued job
and a chain that is submitted again lose little.
"""

import json
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from string import Template

from data_tools.errors import PreparationError
from data_tools.executors.run_share import JOBS, SHARED_STAGES, TASK_NAME, save_task, stage_command
from data_tools.stages.cache import Stage
from data_tools.stages.preparation import Preparation
from trireme.files import write_whole
from trireme.project import PROJECT_ROOT
from trireme.slurm import SlurmError, array_range, ask_slurm, find_alive, literal_path, render_directives, submit_script

TEMPLATE = PROJECT_ROOT / "slurm" / "data_prep.sbatch"
SUBMITTED_NAME = "submitted.json"


class _Template(Template):
    """Marks fields with @, which has no meaning to the shell."""

    delimiter = "@"


@dataclass(frozen=True, kw_only=True)
class JobScript:
    """A job that is ready to be submitted."""

    stage: Stage
    path: Path
    text: str


def submit_jobs(preparation: Preparation) -> None:
    """Write the job scripts and submit them, each after the one before it; print them when dry_run is set.

    Raises:
        PreparationError: jobs of this preparation are still active, or Slurm rejects one.
    """
    scripts = list(render_scripts(preparation))
    if preparation.config.executor.dry_run:
        for script in scripts:
            print(f"# {script.path}, submitted to run after all jobs of the stage before it\n{script.text}")
        return
    try:
        _refuse_second_submission(preparation)
        save_task(preparation)
        submitted = _submit_chain(scripts, record=preparation.directories.logs / SUBMITTED_NAME)
    except SlurmError as error:
        raise PreparationError(str(error)) from error
    ids = [job for jobs in submitted.values() for job in jobs]
    for stage, jobs in submitted.items():
        print(f"{stage.value:<9} {' '.join(jobs)}")
    print(f"Follow:  squeue -j {','.join(ids)}; tail -f {shlex.quote(str(preparation.directories.logs))}/*.out")
    print(f"Cancel:  scancel {' '.join(ids)}")
    print("If a job fails, rerun the same command: it resumes from the finished work.")


def _submit_chain(scripts: list[JobScript], *, record: Path) -> dict[Stage, list[str]]:
    """Submit all jobs, or none.

    Args:
        record: file that receives each job id at once, so that they survive if this command is killed.
    Returns:
        Ids of the jobs by stage.
    """
    submitted: dict[Stage, list[str]] = {stage: [] for stage in JOBS}
    ids: list[str] = []
    before: list[str] = []
    try:
        for stage in JOBS:
            for script in (script for script in scripts if script.stage is stage):
                script.path.write_text(script.text, encoding="utf-8")
                ids.append(submit_script(script.path, dependency=f"afterok:{':'.join(before)}" if before else None))
                submitted[stage].append(ids[-1])
                write_whole(record, json.dumps(ids))
            before = submitted[stage]
    except BaseException:
        if ids:
            ask_slurm("scancel", *ids)
        raise
    return submitted


def render_scripts(preparation: Preparation) -> Iterator[JobScript]:
    """Render the scripts of all jobs, in the order of the stages."""
    executor = preparation.config.executor
    settings, count = executor.slurm, executor.num_shares
    logs = preparation.directories.logs.absolute()
    task_file = logs / TASK_NAME
    for stage in JOBS:
        for first in range(0, count, settings.max_array_size) if stage in SHARED_STAGES else (0,):
            size = min(settings.max_array_size, count - first)
            name = f"{stage.value}-{first}" if stage in SHARED_STAGES and first else stage.value
            output = literal_path(logs / name)
            options = {
                "job-name": f"trireme-data-{stage.value}",
                "output": f"{output}-%A_%a.out" if stage in SHARED_STAGES else f"{output}-%j.out",
                "array": array_range(size, settings.max_running) if stage in SHARED_STAGES else None,
                "partition": settings.partition,
                "account": settings.account,
                "qos": settings.qos,
                "time": settings.time_limit,
                "cpus-per-task": settings.cpus_per_task,
                "mem": settings.memory,
            }
            share = f'"$(({first} + SLURM_ARRAY_TASK_ID))/{count}"' if stage in SHARED_STAGES else ""
            text = _Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
                directives="\n".join(render_directives(options, further=settings.options)),
                setup="\n".join(settings.setup),
                root=shlex.quote(str(PROJECT_ROOT)),
                command=shlex.join([settings.python or sys.executable, *stage_command(stage, task_file=task_file)]),
                share=share,
            )
            yield JobScript(stage=stage, path=logs / f"{name}.sbatch", text=text)


def _refuse_second_submission(preparation: Preparation) -> None:
    path = preparation.directories.logs / SUBMITTED_NAME
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return
    except ValueError:
        raise PreparationError(
            f"{path} is incomplete, so jobs of this preparation may still be active. Find them with"
            " `squeue --format='%i %j'` (trireme-data-...), cancel them with scancel, and remove the file."
        ) from None
    if alive := find_alive(known):
        raise PreparationError(
            f"Jobs of this preparation are still active: {' '.join(alive)}. Wait for them, or cancel them with scancel."
        )
