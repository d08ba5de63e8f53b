"""Run Slurm's commands from a login node, and keep their error messages for the user."""

import re
import shlex
import subprocess
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path


class SlurmError(Exception):
    """Report that Slurm is not installed or refused a command; the message is for the user."""


def ask_slurm(*command: str) -> str:
    """Run a command of Slurm and return what it printed.

    Raises:
        SlurmError: the command failed; with Slurm's own message.
    """
    done = _run(command)
    if done.returncode:
        said = done.stderr.strip() or done.stdout.strip()
        raise SlurmError(f"{shlex.join(command)} failed (exit code {done.returncode}): {said}")
    return done.stdout.strip()


def _run(command: Sequence[str], *, text: str | None = None) -> "subprocess.CompletedProcess[str]":
    try:
        return subprocess.run(command, input=text, capture_output=True, text=True, encoding="utf-8", check=False)
    except FileNotFoundError:
        raise SlurmError(
            f"{command[0]} is not installed on this host; submit from a login node of the cluster"
        ) from None


def try_script(text: str) -> str:
    """Check with sbatch --test-only whether a script would be accepted; nothing is queued.

    Returns:
        Where and when the job would start, as sbatch reports it.
    Raises:
        SlurmError: sbatch would refuse it; with its own message.
    """
    done = _run(("sbatch", "--test-only"), text=text)
    said = " ".join(line.removeprefix("sbatch: ").strip() for line in done.stderr.splitlines())
    if done.returncode:
        raise SlurmError(said.removeprefix("error: ").removeprefix("allocation failure: "))
    return re.sub(r"^Job \d+ ", "", said)


def submit_script(script: Path, *, dependency: str | None = None) -> str:
    """Submit a batch script.

    Args:
        dependency: such as `afterok:12`; a job whose dependency can never be met is cancelled.
    Returns:
        The job id.
    """
    options = [f"--dependency={dependency}", "--kill-on-invalid-dep=yes"] if dependency else []
    return ask_slurm("sbatch", "--parsable", *options, str(script)).partition(";")[0]


def render_directives(options: Mapping[str, object], *, further: Mapping[str, object]) -> Iterator[str]:
    """Yield the #SBATCH lines of a script.

    Args:
        options: by long name; an option with None is omitted.
        further: by long name; None is an option without a value.
    """
    for name, value in merge_options(options, further=further).items():
        yield f"#SBATCH --{name}" + ("" if value is None else f"={quote_for_sbatch(str(value))}")


def merge_options(options: Mapping[str, object], *, further: Mapping[str, object]) -> dict[str, object]:
    """Merge the options of a command line; None is one without a value. Takes the arguments of `render_directives`."""
    return {**{name: value for name, value in options.items() if value is not None}, **further}


def quote_for_sbatch(text: str) -> str:
    """Write a value so that sbatch reads it in a script: a backslash escapes inside its quotes, too.

    Raises:
        ValueError: it has several lines; those after the first would become lines of the script.
    """
    if not is_one_line(text):
        raise ValueError(f"{text!r} must be a single line")
    if shlex.quote(text) == text:
        return text
    escaped = re.sub(r"(['\\])", r"\\\1", text)
    return f"'{escaped}'"


def is_one_line(text: str) -> bool:
    """Return whether a text has no line breaks and no other control characters."""
    return not any(unicodedata.category(character) == "Cc" for character in text)


def array_range(size: int, max_running: int | None) -> str:
    """Write the range of a job array: elements 0 to size - 1, at most max_running of them at a time."""
    return f"0-{size - 1}" + (f"%{max_running}" if max_running else "")


def literal_path(path: Path) -> str:
    """Escape a path for sbatch's --output, where % begins a placeholder and %% is a literal %."""
    return str(path).replace("%", "%%")


def find_alive(jobs: Iterable[str]) -> list[str]:
    """Return those of the jobs that are pending or running.

    Args:
        jobs: ids as sbatch printed them, or those of array elements (`12_0`).
    """
    wanted = set(jobs)
    if not wanted:
        return []
    # %i: an element's id; %F: its array's, which all elements share; pending elements are listed one by one.
    rows = [row.split() for row in ask_slurm("squeue", "--noheader", "--array", "--format=%i %F").splitlines()]
    return sorted(wanted & {name for row in rows for name in row}, key=_by_number)


def _by_number(job: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", job)]
