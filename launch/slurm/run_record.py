"""Record each submission in its run directory, and copy the code that it runs."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from trireme.files import append_durably
from trireme.project import PROJECT_ROOT


@dataclass(frozen=True, kw_only=True)
class Submission:
    """Describe one submission of one run."""

    stamp: str
    """Its name; slurm/STAMP in the run directory contains the resolved configuration."""
    jobs: tuple[str, ...]
    """Job ids, those of array elements as 12_3; several for a chain."""
    script: str
    outputs: tuple[str, ...]
    """The output file of each job."""


def add_submission(run_directory: Path, submission: Submission) -> None:
    """Append the record of a submission, atomically.

    Raises:
        OSError: it cannot be written.
    """
    path = _path(run_directory)
    before = path.read_bytes() if path.exists() else b""
    # After an incomplete line, it would be read as the rest of that line.
    start = "\n" if before and not before.endswith(b"\n") else ""
    try:
        append_durably(path, start + json.dumps(asdict(submission)) + "\n")
    except OSError:
        with contextlib.suppress(OSError):
            os.truncate(path, len(before))
        raise


def forget_last_submission(run_directory: Path, stamp: str) -> None:
    """Remove the last record if it is that of this submission; requires no disk space.

    Raises:
        OSError: it cannot be written.
    """
    path = _path(run_directory)
    text = path.read_bytes() if path.exists() else b""
    lines = text.splitlines(keepends=True)
    last = _read_record(lines[-1].decode(errors="replace")) if lines else None
    if last is not None and last.stamp == stamp:
        os.truncate(path, len(text) - len(lines[-1]))
    if path.exists() and path.stat().st_size == 0:
        path.unlink()


def read_submissions(run_directory: Path) -> list[Submission]:
    """Return all submissions, oldest first; none for a run that was never submitted.

    An invalid line, which a full disk or a killed command can leave, is skipped with a warning.
    """
    path = _path(run_directory)
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return []
    submissions = []
    for number, line in enumerate(lines, start=1):
        record = _read_record(line)
        if record is not None:
            submissions.append(record)
        elif line.strip():
            print(
                f"warning: {path}: line {number} is not a valid record and is skipped (got {line[:60]!r})."
                " Check with squeue for a job that it may have recorded, then remove the line.",
                file=sys.stderr,
            )
    return submissions


def _read_record(line: str) -> Submission | None:
    try:
        record = json.loads(line)
        return Submission(
            stamp=record["stamp"],
            jobs=tuple(record["jobs"]),
            script=record["script"],
            outputs=tuple(record["outputs"]),
        )
    except (ValueError, TypeError, KeyError):
        return None


def _path(run_directory: Path) -> Path:
    return run_directory / "slurm" / "submissions.jsonl"


PACKAGES = ("conf", "data_tools", "launch", "slurm", "trainer", "trireme")
"""The parts of the project that a run imports or reads; the environment's packages are not copied."""


def new_stamp(run_directory: Path, *, now: datetime | None = None) -> str:
    """Return a name for a submission from the time, such as 20260131-235959, with a numeric suffix if it is taken."""
    base = (now or datetime.now(UTC)).strftime("%Y%m%d-%H%M%S")
    names = (base, *(f"{base}-{number}" for number in range(2, 1000)))
    return next(name for name in names if not (run_directory / "slurm" / name).exists())


def copy_code(target: Path) -> None:
    """Copy the project's packages."""
    for package in PACKAGES:
        shutil.copytree(
            PROJECT_ROOT / package, target / package, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info")
        )


def describe_code() -> str:
    """Return the project's git commit and whether files differ from it; empty outside a git checkout."""
    try:
        commit = _ask_git("rev-parse", "--short=12", "HEAD")
        changed = _ask_git("status", "--porcelain", "--", *PACKAGES)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return f"commit {commit}" + (" with uncommitted changes" if changed else "")


def _ask_git(*arguments: str) -> str:
    # Of this directory only: an installed copy may be inside another repository.
    if not (PROJECT_ROOT / ".git").exists():
        raise FileNotFoundError(PROJECT_ROOT / ".git")
    command = ["git", "-C", str(PROJECT_ROOT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
