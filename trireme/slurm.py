"""Slurm's commands: asked from a login node, their refusals kept for the user."""

import re
import shlex
import subprocess
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path


class SlurmError(Exception):
    """Slurm is not there, or refuses; its message is for the user."""


def ask_slurm(*command: str) -> str:
    """Run a command of Slurm and return what it printed.

    Raises:
        SlurmError: with Slurm's own words.
    """
    done = _run(command)
    if done.returncode:
        said = done.stderr.strip() or done.stdout.strip()
        raise SlurmError(f"{shlex.join(command)} ended with code {done.returncode}: {said}")
    return done.stdout.strip()


def _run(command: Sequence[str], *, text: str | None = None) -> "subprocess.CompletedProcess[str]":
    try:
        return subprocess.run(command, input=text, capture_output=True, text=True, encoding="utf-8", check=False)
    except FileNotFoundError:
        raise SlurmError(f"{command[0]} is not installed here: submit from a login node of the cluster") from None


def try_script(text: str) -> str:
    """Ask whether sbatch would take a script, and queue nothing.

    Returns:
        Where and when it says that the job would start.
    Raises:
        SlurmError: it would not; with its own words.
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
        The job's number.
    """
    options = [f"--dependency={dependency}", "--kill-on-invalid-dep=yes"] if dependency else []
    return ask_slurm("sbatch", "--parsable", *options, str(script)).partition(";")[0]


def render_directives(options: Mapping[str, object], *, further: Mapping[str, object]) -> Iterator[str]:
    """The #SBATCH lines of a script.

    Args:
        options: by long name; None leaves one out.
        further: by long name; None is an option without a value.
    """
    for name, value in merge_options(options, further=further).items():
        yield f"#SBATCH --{name}" + ("" if value is None else f"={quote_for_sbatch(str(value))}")


def merge_options(options: Mapping[str, object], *, further: Mapping[str, object]) -> dict[str, object]:
    """All options that stand on a command line; None is one without a value. The arguments are `render_directives`'."""
    return {**{name: value for name, value in options.items() if value is not None}, **further}


def quote_for_sbatch(text: str) -> str:
    """Write a value so that sbatch reads it in a script: a backslash escapes inside its quotes, too.

    Raises:
        ValueError: it has several lines, and what follows the first would be a line of the script.
    """
    if not is_one_line(text):
        raise ValueError(f"{text!r} is no single line")
    if shlex.quote(text) == text:
        return text
    escaped = re.sub(r"(['\\])", r"\\\1", text)
    return f"'{escaped}'"


def is_one_line(text: str) -> bool:
    """Whether a text has no line breaks and no other control characters."""
    return not any(unicodedata.category(character) == "Cc" for character in text)


def array_range(size: int, max_running: int | None) -> str:
    """Elements 0 to size - 1, so many of them at a time."""
    return f"0-{size - 1}" + (f"%{max_running}" if max_running else "")


def literal_path(path: Path) -> str:
    """A path in a pattern of sbatch's --output, where % begins a number of the job and %% stands for itself."""
    return str(path).replace("%", "%%")


def find_alive(jobs: Iterable[str]) -> list[str]:
    """Those of the jobs that wait or run.

    Args:
        jobs: numbers as sbatch gave them, or those of an array's elements (`12_0`).
    """
    wanted = set(jobs)
    if not wanted:
        return []
    # %i: an element's number; %F: its array's, which all elements have; pending elements are listed one by one.
    rows = [row.split() for row in ask_slurm("squeue", "--noheader", "--array", "--format=%i %F").splitlines()]
    return sorted(wanted & {name for row in rows for name in row}, key=_by_number)


def _by_number(job: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", job)]
