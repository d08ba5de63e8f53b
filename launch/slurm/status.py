"""Show the status and the output of submitted runs, and stop them."""

import contextlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from launch.slurm.render import directory_of
from launch.slurm.run_record import Submission, read_submissions
from trainer.config.load import load_config_file
from trainer.config.schema import TrainConfig
from trireme.errors import EXIT_STOPPED, ConfigError, RunStopped, Violation, raise_if_any
from trireme.slurm import SlurmError, ask_slurm

_LINES_SHOWN = 50
_TAIL_BYTES = 1 << 16
_MAX_IDS = 5000
"""Job ids in one command line: Linux takes 128 KiB per argument."""
_OVER = frozenset(
    (
        *("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "GONE", "LAUNCH_FAILED", "NODE_FAIL"),
        *("OUT_OF_MEMORY", "PREEMPTED", "RECONFIG_FAIL", "REVOKED", "TIMEOUT"),
    )
)
"""States of finished jobs. Source: squeue(1), JOB STATE CODES."""
_NOT_BEGUN = frozenset(
    ("CONFIGURING", "PENDING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "RESV_DEL_HOLD", "SPECIAL_EXIT")
)
"""States of jobs whose script has not started, so that cancelling them loses nothing."""


@dataclass(frozen=True, kw_only=True)
class JobState:
    """Hold what Slurm reports of a job."""

    state: str
    """Such as RUNNING, or GONE when Slurm no longer knows the job."""
    details: str = ""


def print_status(configs: Sequence[TrainConfig]) -> None:
    """Print the jobs, the last step and the latest checkpoint of each run.

    Raises:
        ConfigError: a run was never submitted.
    """
    found = _find_submissions(configs)
    states = ask_states(job for _, submissions in found for job in submissions[-1].jobs)
    for config, submissions in found:
        directory = directory_of(config)
        print(f"run        {directory}")
        newest = submissions[-1]
        for job in newest.jobs:
            print(f"job        {job} {states[job].state}{states[job].details}")
        submitted = load_config_file(directory / "slurm" / newest.stamp / "config.yaml")
        print(f"step       {_describe_step(directory, num_steps=submitted.training.train_iters)}")
        print(f"checkpoint {_describe_checkpoint(directory)}")


def stop_runs(configs: Sequence[TrainConfig]) -> None:
    """Ask running jobs to save a checkpoint and exit, and cancel pending ones.

    Raises:
        ConfigError: a run was never submitted, or none of them has a pending or running job.
        RunStopped: the file that stops a run cannot be written.
    """
    found = [(config, submissions[-1]) for config, submissions in _find_submissions(configs)]
    known = ask_states(job for _, submission in found for job in submission.jobs)
    states = {job: one.state for job, one in known.items()}
    over = {
        config.run_name: f"no pending or running job: {_list_states(submission, states)}"
        for config, submission in found
        if _OVER.issuperset(states[job] for job in submission.jobs)
    }
    if len(over) == len(found):
        fix = "There is nothing to stop."
        raise_if_any(Violation(path="run_name", value=name, message=rule, fix=fix) for name, rule in over.items())
    live: list[str] = []
    for config, submission in found:
        if config.run_name in over:
            print(f"{config.run_name}: {over[config.run_name]}")
            continue
        _leave_stop_file(directory_of(config) / "slurm" / submission.stamp / "stop", jobs=submission.jobs)
        live += [job for job in submission.jobs if states[job] not in _OVER]
    # Pending jobs first: when a job ends, the next one of the chain starts.
    pending = [job for job in live if states[job] in _NOT_BEGUN]
    for start in range(0, len(pending), _MAX_IDS):
        ask_slurm("scancel", *pending[start : start + _MAX_IDS])
    for job in pending:
        print(f"{job}: cancelled before it started")
    for job in live:
        if states[job] not in _NOT_BEGUN:
            print(f"{job}: {_stop_job(job, states[job])}")


def _leave_stop_file(path: Path, *, jobs: Sequence[str]) -> None:
    """Write the file that the script checks when it starts, while it runs, and before it requeues itself."""
    try:
        path.touch()
    except OSError as error:
        raise RunStopped(
            f"{path}: cannot write this file: {error.strerror}. Without it, the run would restart."
            f" Free disk space there, or cancel the jobs without saving: scancel {' '.join(jobs)}",
            exit_code=EXIT_STOPPED,
        ) from error


def _stop_job(job: str, state: str) -> str:
    """Ask a job that has started to save a checkpoint and exit.

    Returns:
        The outcome, for the user.
    """
    at_once = f"To end it without saving: scancel {job}"
    if state == "COMPLETING":
        # A job that has requeued itself is in this state before it is pending again.
        with contextlib.suppress(SlurmError):
            ask_slurm("scancel", job)
        return "already finishing; it will not restart"
    if state in ("SUSPENDED", "STOPPED"):
        return f"is {state}; it will save a checkpoint and exit when it is resumed. {at_once}"
    try:
        ask_slurm("scancel", "--batch", "--signal=USR1", job)
    except SlurmError as error:
        # The job has ended meanwhile, or its script is just starting.
        return f"will exit at its next check for stop requests ({error}). {at_once}"
    return f"asked to save a checkpoint and exit. {at_once}"


def show_logs(config: TrainConfig, *, follow: bool) -> None:
    """Print the end of the output of the run's latest job; with follow, this process becomes `tail -F`.

    Raises:
        ConfigError: the run was never submitted, or has no output yet.
    """
    ((_, submissions),) = _find_submissions([config])
    outputs = [Path(output) for submission in reversed(submissions) for output in reversed(submission.outputs)]
    written = [output for output in outputs if output.exists()]
    if not written and not follow:
        job = submissions[-1].jobs[0]
        found = ask_states([job])[job]
        rule = f"no output yet: job {job} is {found.state}{found.details}"
        fix = "Wait until the job starts."
        raise ConfigError([Violation(path="run_name", value=config.run_name, message=rule, fix=fix)])
    path = written[0] if written else Path(submissions[-1].outputs[0])
    if follow:
        os.execvp("tail", ["tail", f"--lines={_LINES_SHOWN}", "-F", str(path)])
    print("\n".join(_read_end(path).splitlines()[-_LINES_SHOWN:]))


def _find_submissions(configs: Sequence[TrainConfig]) -> list[tuple[TrainConfig, list[Submission]]]:
    found = [(config, read_submissions(directory_of(config))) for config in configs]
    raise_if_any(
        Violation(
            path="run_name",
            value=config.run_name,
            message=f"this run was never submitted: {directory_of(config)} has no record of a job",
            fix="Use the run_name and output_dir of the submission.",
        )
        for config, submissions in found
        if not submissions
    )
    return found


def ask_states(jobs: Iterable[str]) -> dict[str, JobState]:
    """Return what Slurm reports of jobs and array elements: from the controller, then from its accounting.

    Slurm is asked once for thousands of jobs, by their arrays' ids.
    """
    wanted = list(dict.fromkeys(jobs))
    states = {job: state for part in _parts(wanted) for job, state in _ask_controller(part).items()}
    missing = [job for job in wanted if job not in states]
    ended = {job: state for part in _parts(missing) for job, state in _ask_accounting(part).items()}
    return {job: states.get(job) or ended.get(job) or JobState(state="GONE") for job in wanted}


def _parts(jobs: Iterable[str]) -> Iterator[list[str]]:
    """Yield the ids of jobs, and of arrays for all their elements, as many as one command line takes."""
    numbers = list(dict.fromkeys(job.partition("_")[0] for job in jobs))
    yield from (numbers[start : start + _MAX_IDS] for start in range(0, len(numbers), _MAX_IDS))


def _ask_controller(numbers: Sequence[str]) -> dict[str, JobState]:
    form = "--format=%i|%T|%N|%M|%l|%r"
    try:
        text = ask_slurm("squeue", "--noheader", "--array", "--states=all", f"--jobs={','.join(numbers)}", form)
    except SlurmError as error:
        if "Invalid job id" not in str(error):
            raise
        # squeue rejects an id that it no longer knows if it is the only one; others may reject a list for it.
        return (
            {} if len(numbers) == 1 else {job: one for each in numbers for job, one in _ask_controller([each]).items()}
        )
    states: dict[str, JobState] = {}
    for line in text.splitlines():
        job, state, nodes, used, limit, reason = line.split("|", 5)
        where = f" on {nodes}, {used} of {limit}" if nodes else ""
        details = where + (f" ({reason})" if reason not in ("None", "") else "")
        states.setdefault(job, JobState(state=state, details=details))
    return states


def _ask_accounting(numbers: Sequence[str]) -> dict[str, JobState]:
    if shutil.which("sacct") is None:
        return {}
    ids = f"--jobs={','.join(numbers)}"
    try:
        text = ask_slurm("sacct", "--noheader", "--allocations", "--parsable2", ids, "--format=JobID,State")
    except SlurmError:  # the command exists at sites without accounting, too
        return {}
    states: dict[str, JobState] = {}
    for line in text.splitlines():
        job, _, state = line.partition("|")
        states.setdefault(job, JobState(state=state.partition(" ")[0]))  # without CANCELLED's `by UID`
    return states


def _list_states(submission: Submission, states: dict[str, str]) -> str:
    return ", ".join(f"{job} is {states[job]}" for job in submission.jobs)


def _describe_step(directory: Path, *, num_steps: int) -> str:
    last = next(
        (record for record in _last_records(directory / "metrics.jsonl") if record.get("kind") == "train"), None
    )
    return f"0 of {num_steps}" if last is None else f"{last['step']} of {num_steps}, loss {last['loss']:.4f}"


def _last_records(path: Path) -> Iterator[dict[str, object]]:
    """Yield the last records of a file, newest first; an incomplete line is skipped."""
    for line in reversed(_read_end(path).splitlines()):
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict):
            yield record


def _describe_checkpoint(directory: Path) -> str:
    found = sorted(path.name for path in (directory / "checkpoints").glob("step_*[0-9]"))
    return str(directory / "checkpoints" / found[-1]) if found else "none yet"


def _read_end(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
            return file.read().decode(errors="replace")
    except FileNotFoundError:
        return ""
