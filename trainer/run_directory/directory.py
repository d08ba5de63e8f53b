"""Prepare a run's directory for a resumed, forked or restarted run, without overwriting earlier results."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from trainer.config.kubernetes import JOB_VARIABLE
from trainer.run_directory.lock import LOCK_NAME, RunLock
from trireme.files import write_whole

CONFIG_NAME = "config.yaml"
"""In a run directory, the configuration of its latest start; in a checkpoint, of the start that saved it."""

_RESTARTED_BY = ".restarted_by"
"""Holds the id of the batch job that restarted a run: if that job is requeued, or its pods restart, it resumes."""
_JOB_VARIABLES = (JOB_VARIABLE, "SLURM_JOB_ID")
_KEPT = (LOCK_NAME, "slurm", "kubernetes", "bad_nodes.jsonl")
"""Stays at a restart: script, code and output of the running job, and the bad nodes, which are still bad."""
_LOGGER = logging.getLogger(__name__)


def is_inside(path: Path, directory: Path) -> bool:
    """Return whether a path, with links resolved, is a directory or inside it."""
    return path.expanduser().resolve().is_relative_to(directory.resolve())


def must_restart(resume: str, run_directory: Path) -> bool:
    """Return whether existing files must be moved aside: `resume=restart`, unless the same job starts again."""
    if resume != "restart" or not _entries(run_directory):
        return False
    job = _job()
    marker = run_directory / _RESTARTED_BY
    return job is None or not marker.is_file() or marker.read_text() != job


@contextmanager
def lock_run_directory(run_directory: Path, *, resume: str) -> Iterator[None]:
    """Hold the lock of a run's directory; for a restart, move its existing files aside first.

    Raises:
        ConfigError: another job holds it.
    """
    if must_restart(resume, run_directory):
        with RunLock(run_directory):
            target = _move_aside(run_directory)
        _LOGGER.warning("resume=restart: moved the contents of %s to %s.", run_directory, target)
    with RunLock(run_directory):
        job = _job()
        if resume == "restart" and job is not None:
            (run_directory / _RESTARTED_BY).write_text(job)
        yield


def keep_configuration(run_directory: Path, text: str, *, step: int) -> str:
    """Write a start's configuration as config.yaml, and permanently as config.STEP.yaml.

    Args:
        step: of the start. Another start at the same step gets config.STEP-2.yaml, unless its configuration is equal.
    Returns:
        The name of the permanent file.
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
    """Rename a file that a new run would overwrite, to metrics.former-1.jsonl for example."""
    if not path.exists():
        return
    number = 1
    while (target := path.with_name(f"{path.stem}.former-{number}{path.suffix}")).exists():
        number += 1
    path.rename(target)
    _LOGGER.warning("Renamed %s, left by a run without a checkpoint, to %s; a new run starts.", path, target.name)


def _job() -> str | None:
    """Return the id of the batch job that this process belongs to."""
    return next((os.environ[name] for name in _JOB_VARIABLES if os.environ.get(name)), None)


def _move_aside(run_directory: Path) -> Path:
    """Move the directory's contents to NAME.archived-1 and so on."""
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
