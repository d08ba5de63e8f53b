"""Looking after runs that were submitted: where they stand, what they print, and how they are stopped."""

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
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
_OVER = frozenset(
    (
        *("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "GONE", "LAUNCH_FAILED", "NODE_FAIL"),
        *("OUT_OF_MEMORY", "PREEMPTED", "RECONFIG_FAIL", "REVOKED", "TIMEOUT"),
    )
)
"""States of jobs that do nothing any more. Source: squeue(1), JOB STATE CODES."""
_NOT_BEGUN = frozenset(
    ("CONFIGURING", "PENDING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "RESV_DEL_HOLD", "SPECIAL_EXIT")
)
"""States of jobs whose script does not run yet, so that nothing is lost with them."""


@dataclass(frozen=True, kw_only=True)
class JobState:
    """What Slurm knows of a job."""

    state: str
    """Such as RUNNING, or GONE when Slurm does not know it any more."""
    details: str = ""


def print_status(configs: Sequence[TrainConfig]) -> None:
    """Say of each run what its jobs do and how far it is.

    Raises:
        ConfigError: one was never submitted.
    """
    for config, submissions in _find_submissions(configs):
        directory = directory_of(config)
        print(f"run        {directory}")
        newest = submissions[-1]
        for job in newest.jobs:
            found = ask_state(job)
            print(f"job        {job} {found.state}{found.details}")
        submitted = load_config_file(directory / "slurm" / newest.stamp / "config.yaml")
        print(f"step       {_describe_step(directory, num_steps=submitted.training.train_iters)}")
        print(f"checkpoint {_describe_checkpoint(directory)}")


def stop_runs(configs: Sequence[TrainConfig]) -> None:
    """Ask running jobs to save and to stay away; take those that wait from the queue.

    Raises:
        ConfigError: a run was never submitted, or no job of any of them is there to be stopped.
        RunStopped: a run cannot be told.
    """
    found = [(config, submissions[-1]) for config, submissions in _find_submissions(configs)]
    states = {job: ask_state(job).state for _, submission in found for job in submission.jobs}
    over = {
        config.run_name: f"has no job that waits or runs ({_list_states(submission, states)})"
        for config, submission in found
        if _OVER.issuperset(states[job] for job in submission.jobs)
    }
    if len(over) == len(found):
        fix = "there is nothing to stop"
        raise_if_any(Violation(path="run_name", value=name, message=rule, fix=fix) for name, rule in over.items())
    for config, submission in found:
        if config.run_name in over:
            print(f"{config.run_name}: {over[config.run_name]}")
            continue
        _leave_stop_file(directory_of(config) / "slurm" / submission.stamp / "stop", jobs=submission.jobs)
        # Those that wait first: the end of a job lets the next of the chain begin.
        for job in sorted(submission.jobs, key=lambda job: states[job] not in _NOT_BEGUN):
            if states[job] not in _OVER:
                print(f"{job}: {_stop_job(job, states[job])}")


def _leave_stop_file(path: Path, *, jobs: Sequence[str]) -> None:
    """The script looks for it when it begins, while it runs, and before it asks to be started again."""
    try:
        path.touch()
    except OSError as error:
        raise RunStopped(
            f"{path}: could not be written ({error.strerror}), and without it the run would start again."
            f" Free some room there, or end it at once: scancel {' '.join(jobs)}",
            exit_code=EXIT_STOPPED,
        ) from error


def _stop_job(job: str, state: str) -> str:
    """Take a job from the queue, or ask it to leave, where it can be asked; what became of it, for the user."""
    at_once = f"`scancel {job}` ends it at once"
    if state in _NOT_BEGUN:
        ask_slurm("scancel", job)
        return "taken from the queue"
    if state == "COMPLETING":
        # One that has asked to be started again waits in the queue behind that state.
        with contextlib.suppress(SlurmError):
            ask_slurm("scancel", job)
        return "ends already, and does not start again"
    if state in ("SUSPENDED", "STOPPED"):
        return f"is {state}; saves and leaves when it is resumed; {at_once}"
    try:
        ask_slurm("scancel", "--batch", "--signal=USR1", job)
    except SlurmError as error:
        # It has ended meanwhile, or has not quite begun.
        return f"leaves by itself as soon as it looks for such requests ({error}); {at_once}"
    return f"asked to save and leave; {at_once}"


def show_logs(config: TrainConfig, *, follow: bool) -> None:
    """Print the end of what the run's newest job wrote; with follow, this process becomes `tail`, which goes on.

    Raises:
        ConfigError: the run was never submitted, or has written nothing yet.
    """
    ((_, submissions),) = _find_submissions([config])
    outputs = [Path(output) for submission in reversed(submissions) for output in reversed(submission.outputs)]
    written = [output for output in outputs if output.exists()]
    if not written and not follow:
        job = submissions[-1].jobs[0]
        found = ask_state(job)
        rule = f"has written nothing yet: job {job} is {found.state}{found.details}"
        raise ConfigError([Violation(path="run_name", value=config.run_name, message=rule, fix="wait for it to start")])
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
            message=f"was never submitted: {directory_of(config)} remembers no job",
            fix="name the run and output_dir that it was submitted with",
        )
        for config, submissions in found
        if not submissions
    )
    return found


def ask_state(job: str) -> JobState:
    """What Slurm knows of a job or an element of an array: from the controller, then from its accounting."""
    form = "%T|%N|%M|%l|%r"
    try:
        text = ask_slurm("squeue", "--noheader", "--array", "--states=all", f"--jobs={job}", f"--format={form}")
    except SlurmError as error:
        if "Invalid job id" not in str(error):
            raise
        text = ""
    if text:
        state, nodes, used, limit, reason = text.splitlines()[0].split("|", 4)
        where = f" on {nodes}, {used} of {limit}" if nodes else ""
        return JobState(state=state, details=where + (f" ({reason})" if reason not in ("None", "") else ""))
    return JobState(state=_ask_accounting(job) or "GONE")


def _ask_accounting(job: str) -> str | None:
    if shutil.which("sacct") is None:
        return None
    try:
        text = ask_slurm("sacct", "--noheader", "--allocations", "--parsable2", f"--jobs={job}", "--format=State")
    except SlurmError:  # sites without accounting have the command, too
        return None
    return text.splitlines()[0].partition(" ")[0] if text else None


def _list_states(submission: Submission, states: dict[str, str]) -> str:
    return ", ".join(f"{job} is {states[job]}" for job in submission.jobs)


def _describe_step(directory: Path, *, num_steps: int) -> str:
    last = next(
        (record for record in _last_records(directory / "metrics.jsonl") if record.get("kind") == "train"), None
    )
    return f"none of {num_steps} yet" if last is None else f"{last['step']} of {num_steps}, loss {last['loss']:.4f}"


def _last_records(path: Path) -> Iterator[dict[str, object]]:
    """The last records of a file, newest first; a line that is being written is passed over."""
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
