"""What a job is made of, kept in the run directory: a requeued job runs what was submitted, whatever changed since."""

import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path

PROJECT_ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("conf", "data_tools", "launch", "slurm", "trainer")
"""All that a run imports or reads of the project; the environment's packages are not copied."""


def new_stamp(run_directory: Path, *, now: datetime | None = None) -> str:
    """A name for a submission by its time, such as 20260131-235959; with a number behind it where that is taken."""
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
    """The git commit of the project and whether files differ from it; empty where it is no git checkout."""
    try:
        commit = _ask_git("rev-parse", "--short=12", "HEAD")
        changed = _ask_git("status", "--porcelain", "--", *PACKAGES)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return f"commit {commit}" + (" with uncommitted changes" if changed else "")


def _ask_git(*arguments: str) -> str:
    # Of this very directory: an installed copy may lie inside somebody else's repository.
    if not (PROJECT_ROOT / ".git").exists():
        raise FileNotFoundError(PROJECT_ROOT / ".git")
    command = ["git", "-C", str(PROJECT_ROOT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
