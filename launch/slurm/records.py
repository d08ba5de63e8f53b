"""What a run directory remembers of its submissions: slurm/submissions.jsonl."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path


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
    """Remember a submission."""
    with open(_path(run_directory), "a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(submission)) + "\n")


def read_submissions(run_directory: Path) -> list[Submission]:
    """All submissions, oldest first; none where the run was never submitted."""
    try:
        lines = _path(run_directory).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    records = [json.loads(line) for line in lines]
    return [
        Submission(**{**record, "jobs": tuple(record["jobs"]), "outputs": tuple(record["outputs"])})
        for record in records
    ]


def _path(run_directory: Path) -> Path:
    return run_directory / "slurm" / "submissions.jsonl"
