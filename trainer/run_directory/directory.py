"""A run's directory: continued, forked or started anew, and never overwritten by accident."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from trainer.config.kubernetes import JOB_VARIABLE
from trainer.run_directory.lock import LOCK_NAME, RunLock
from trireme.files import write_whole

CONFIG_NAME = "config.yaml"
"""The configuration of a run's newest start, in its directory; in a checkpoint, of the start that saved it."""

_RESTARTED_BY = ".restarted_by"
"""Names the batch job that started a run anew: when it is requeued, or its pods start again, it goes on."""
_JOB_VARIABLES = (JOB_VARIABLE, "SLURM_JOB_ID")
_KEPT = (LOCK_NAME, "slurm", "kubernetes", "bad_nodes.jsonl")
"""Not of what was trained: the job that runs now has its script, code and output there, and its nodes are still bad."""
_LOGGER = logging.getLogger(__name__)


def is_inside(path: Path, directory: Path) -> bool:
    """Whether a path, links followed, is a directory or lies in it."""
    return path.expanduser().resolve().is_relative_to(directory.resolve())


def must_restart(resume: str, run_directory: Path) -> bool:
    """Whether what the directory holds must make room: `resume=restart`, and not because the same job is back."""
    if resume != "restart" or not _entries(run_directory):
        return False
    job = _job()
    marker = run_directory / _RESTARTED_BY
    return job is None or not marker.is_file() or marker.read_text() != job


@contextmanager
def lock_run_directory(run_directory: Path, *, resume: str) -> Iterator[None]:
    """Hold a run's directory for this job alone, after making room where the run is to start anew.

    Raises:
        ConfigError: another job holds it.
    """
    if must_restart(resume, run_directory):
        with RunLock(run_directory):
            target = _move_aside(run_directory)
        _LOGGER.warning("resume=restart: what %s held is in %s now", run_directory, target)
    with RunLock(run_directory):
        job = _job()
        if resume == "restart" and job is not None:
            (run_directory / _RESTARTED_BY).write_text(job)
        yield


def keep_configuration(run_directory: Path, text: str, *, step: int) -> str:
    """Write a start's configuration as config.yaml, and for good as config.STEP.yaml.

    Args:
        step: that the start goes on from. Another start at the same step has config.STEP-2.yaml, unless it is the same.
    Returns:
        The name of the file that stays.
    Raises:
        OSError: it cannot be written.
    """
    number = 1
    while True:
        path = run_directory / f"config.{step}{f'-{number}' if number > 1 else ''}.yaml"
        if not path.exists():
            write_whole(path, text)
        if path.read_text(encoding="utf-8") == text:
            break
        number += 1
    write_whole(run_directory / CONFIG_NAME, text)
    return path.name


def rotate_file(path: Path) -> None:
    """Give a file that a new run would overwrite another name beside it, such as metrics.former-1.jsonl."""
    if not path.exists():
        return
    number = 1
    while (target := path.with_name(f"{path.stem}.former-{number}{path.suffix}")).exists():
        number += 1
    path.rename(target)
    _LOGGER.warning("%s is of a run that left no checkpoint; it is %s now, and the run starts anew", path, target.name)


def _job() -> str | None:
    """The batch job that this process belongs to."""
    return next((os.environ[name] for name in _JOB_VARIABLES if os.environ.get(name)), None)


def _move_aside(run_directory: Path) -> Path:
    """Move what the directory holds to NAME.archived-1 and so on."""
    number = 1
    while (target := run_directory.with_name(f"{run_directory.name}.archived-{number}")).exists():
        number += 1
    target.mkdir()
    for entry in _entries(run_directory):
        (run_directory / entry).rename(target / entry)
    return target


def _entries(run_directory: Path) -> list[str]:
    if not run_directory.is_dir():
        return []
    return [entry.name for entry in run_directory.iterdir() if entry.name not in _KEPT]
