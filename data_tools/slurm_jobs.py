"""The executor slurm: a preparation as a chain of jobs, of which reading and tokenizing are job arrays.

The script of every job is slurm/data_prep.sbatch, filled in. Each job takes up what earlier ones have done, so a job
that Slurm requeues, and a chain that is submitted again, lose little.
"""

import json
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from string import Template

from data_tools.run_stage import TASK_NAME, save_task, stage_command
from data_tools.stages import Preparation, Stage
from data_tools.workers import PreparationError

PROJECT_ROOT = Path(__file__).resolve().parents[1]
TEMPLATE = PROJECT_ROOT / "slurm" / "data_prep.sbatch"
SUBMITTED_NAME = "submitted.json"
_SHARED = (Stage.READ, Stage.PACK)


class _Template(Template):
    """Marks what is filled in with @, which means nothing to the shell."""

    delimiter = "@"


@dataclass(frozen=True, kw_only=True)
class JobScript:
    """A job, ready to be submitted."""

    stage: Stage
    path: Path
    text: str


def submit_jobs(preparation: Preparation) -> None:
    """Write the scripts and submit them, each stage behind the one before it; or print them when dry_run is set.

    Raises:
        PreparationError: jobs of this preparation still run, or Slurm refuses one.
    """
    scripts = list(render_scripts(preparation))
    if preparation.config.executor.dry_run:
        for script in scripts:
            print(f"# {script.path}, submitted behind all jobs of the stage before it\n{script.text}")
        return
    _refuse_second_submission(preparation)
    save_task(preparation)
    submitted = _submit_chain(scripts, record=preparation.place.logs / SUBMITTED_NAME)
    ids = [job for jobs in submitted.values() for job in jobs]
    for stage, jobs in submitted.items():
        print(f"{stage.value:<9} {' '.join(jobs)}")
    print(f"follow them:  squeue -j {','.join(ids)}; tail -f {shlex.quote(str(preparation.place.logs))}/*.out")
    print(f"cancel them:  scancel {' '.join(ids)}")
    print("if one fails: submit the same command again; it goes on from there")


def _submit_chain(scripts: list[JobScript], *, record: Path) -> dict[Stage, list[str]]:
    """Submit all jobs or none.

    Args:
        record: is kept up to date with the jobs' numbers, so that even a command that is killed leaves them.
    Returns:
        The jobs' numbers.
    """
    submitted: dict[Stage, list[str]] = {stage: [] for stage in Stage}
    ids: list[str] = []
    before: list[str] = []
    try:
        for stage in Stage:
            for script in (script for script in scripts if script.stage is stage):
                script.path.write_text(script.text, encoding="utf-8")
                ids.append(_submit(script.path, behind=before))
                submitted[stage].append(ids[-1])
                record.write_text(json.dumps(ids), encoding="utf-8")
            before = submitted[stage]
    except BaseException:
        if ids:
            _ask_slurm(["scancel", *ids])
        raise
    return submitted


def render_scripts(preparation: Preparation) -> Iterator[JobScript]:
    """Make the scripts of all jobs, in the order of the stages."""
    executor = preparation.config.executor
    settings, count = executor.slurm, executor.num_shares
    logs = preparation.place.logs.absolute()
    task_file = logs / TASK_NAME
    for stage in Stage:
        for first in range(0, count, settings.max_array_size) if stage in _SHARED else (0,):
            size = min(settings.max_array_size, count - first)
            name = f"{stage.value}-{first}" if stage in _SHARED and first else stage.value
            # In a pattern % begins a number of the job, and %% stands for itself.
            output = f"{logs}/{name}".replace("%", "%%")
            directives = {
                "job-name": f"trireme-data-{stage.value}",
                "output": f"{output}-%A_%a.out" if stage in _SHARED else f"{output}-%j.out",
                "array": _array_range(size, settings.max_running) if stage in _SHARED else None,
                "partition": settings.partition,
                "account": settings.account,
                "qos": settings.qos,
                "time": settings.time_limit,
                "cpus-per-task": settings.cpus_per_task,
                "mem": settings.memory,
            }
            lines = [_directive(key, value) for key, value in directives.items() if value is not None]
            lines += [_directive(key, value) for key, value in settings.options.items()]
            share = f'"$(({first} + SLURM_ARRAY_TASK_ID))/{count}"' if stage in _SHARED else ""
            text = _Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
                directives="\n".join(lines),
                setup="\n".join(settings.setup),
                root=shlex.quote(str(PROJECT_ROOT)),
                command=shlex.join([settings.python or sys.executable, *stage_command(stage, task_file=task_file)]),
                share=share,
            )
            yield JobScript(stage=stage, path=logs / f"{name}.sbatch", text=text)


def _directive(key: str, value: object) -> str:
    # sbatch takes quotes apart as a shell does.
    return f"#SBATCH --{key}" + ("" if value is None else f"={shlex.quote(str(value))}")


def _array_range(size: int, max_running: int | None) -> str:
    return f"0-{size - 1}" + (f"%{max_running}" if max_running else "")


def _submit(script: Path, *, behind: list[str]) -> str:
    options = [f"--dependency=afterok:{':'.join(behind)}", "--kill-on-invalid-dep=yes"] if behind else []
    return _ask_slurm(["sbatch", "--parsable", *options, str(script)]).partition(";")[0]


def _refuse_second_submission(preparation: Preparation) -> None:
    try:
        known = json.loads((preparation.place.logs / SUBMITTED_NAME).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return
    # %F: an element that runs has a number of its own, and all have that of their array.
    alive = set(_ask_slurm(["squeue", "--noheader", "--format=%F"]).split()) & set(known)
    if alive:
        raise PreparationError(
            f"jobs of this preparation are not over: {' '.join(sorted(alive))}; wait for them, or scancel them first"
        )


def _ask_slurm(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise PreparationError(
            f"{command[0]} is not installed here: submit from a login node, or look at the scripts with"
            " data_prep.executor.dry_run=true"
        ) from None
    if done.returncode:
        raise PreparationError(f"{shlex.join(command)} ended with code {done.returncode}: {done.stderr.strip()}")
    return done.stdout.strip()
