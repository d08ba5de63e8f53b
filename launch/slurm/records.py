"""What a run directory remembers of its submissions: slurm/submissions.jsonl."""

import contextlib
import json
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from trireme.files import append_durably


@dataclass(frozen=True, kw_only=True)
class Submission:
    """One submission of one run."""

    stamp: str
    """Its name: the folder slurm/STAMP of the run directory has the resolved configuration."""
    jobs: tuple[str, ...]
    """Numbers of its jobs, of array elements as 12_3; several where it is a chain."""
    script: str
    outputs: tuple[str, ...]
    """The file that each job writes to."""


def add_submission(run_directory: Path, submission: Submission) -> None:
    """Remember a submission, whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    path = _path(run_directory)
    before = path.read_bytes() if path.exists() else b""
    # Behind a line that was written by half, it would be taken for the rest of it.
    start = "\n" if before and not before.endswith(b"\n") else ""
    try:
        append_durably(path, start + json.dumps(asdict(submission)) + "\n")
    except OSError:
        with contextlib.suppress(OSError):
            os.truncate(path, len(before))
        raise


def forget_last_submission(run_directory: Path, stamp: str) -> None:
    """Take back the last record if it is that of this submission; needs no room on the disk.

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
    """Return all submissions, oldest first; none where the run was never submitted.

    A line that is no record, as a full disk or a killed command leaves one, is passed over with a warning.
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
                f"warning: {path}: line {number} is no record of a submission and is passed over (got {line[:60]!r})."
                " If it was one, its job is not known here: look for it with squeue, and remove the line",
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
