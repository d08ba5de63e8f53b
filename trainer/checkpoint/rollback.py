"""Roll a run back to the own checkpoint that `resume` names: once, however often the same command is started."""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from trainer.checkpoint.directory import abandon_later, checkpoints_directory, list_checkpoints, step_of
from trainer.checkpoint.manifest import MANIFEST_NAME, read_manifest
from trainer.run_directory.directory import is_inside
from trireme.errors import ConfigError
from trireme.files import write_whole

RECORD_NAME = "rollback.json"
"""In the run directory: the latest rollback."""


@dataclass(frozen=True, kw_only=True)
class Rollback:
    """Hold the record of a rollback."""

    checkpoint: str
    """Directory name of the checkpoint that the run rolled back to."""
    files_sha256: str
    """Digest of its files' sha256, to detect a later checkpoint of the same step."""
    step: int
    from_step: int | None
    """Of the checkpoint that was the latest before."""
    set_aside: tuple[str, ...]
    """New names of the checkpoints that were saved later."""


def names_own_checkpoint(resume: str, run_directory: Path) -> bool:
    """Return whether `resume` is the path of a single checkpoint of the run that is starting, existing or deleted."""
    path = Path(resume).expanduser()
    directory = run_directory.resolve()
    return is_inside(path, directory) and path.resolve() not in (directory, checkpoints_directory(directory))


def resume_of_start(resume: str, run_directory: Path) -> str:
    """Return the `resume` of this start: auto if the configured one names a rollback that an earlier start has done.

    Otherwise a command that is run again, by a person or a scheduler, would discard all progress since the rollback.
    """
    if not names_own_checkpoint(resume, run_directory) or not list_checkpoints(run_directory):
        return resume
    done = read_rollback(run_directory)
    path = Path(resume).expanduser()
    if done is None or path.name != done.checkpoint:
        return resume
    is_gone = not (path / MANIFEST_NAME).is_file()
    return "auto" if is_gone or _digest(path) == done.files_sha256 else resume


def roll_back(run_directory: Path, *, to: Path) -> Rollback:
    """Rename the checkpoints saved after one of a run's own checkpoints, and record that; rank 0 calls this.

    Args:
        to: the checkpoint that has been loaded.
    Raises:
        OSError: a checkpoint cannot be renamed, or the record cannot be written.
        ConfigError: the manifest of `to` cannot be read.
    """
    own = list_checkpoints(run_directory)
    done = Rollback(
        checkpoint=to.name,
        files_sha256=_digest(to),
        step=step_of(to),
        from_step=step_of(own[0]) if own else None,
        set_aside=tuple(path.name for path in abandon_later(run_directory, than=to)),
    )
    write_whole(run_directory / RECORD_NAME, json.dumps(asdict(done), indent=1) + "\n")
    return done


def read_rollback(run_directory: Path) -> Rollback | None:
    """Read the latest rollback of a run; None if there was none, or its record is damaged."""
    try:
        record = json.loads((run_directory / RECORD_NAME).read_bytes())
        return Rollback(**{**record, "set_aside": tuple(record["set_aside"])})
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _digest(checkpoint: Path) -> str:
    """Return a digest of a checkpoint's files from its manifest; empty if that cannot be read."""
    try:
        files = read_manifest(checkpoint).files
    except ConfigError:  # reported when it is loaded
        return ""
    lines = [f"{name} {files[name].sha256}" for name in sorted(files)]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
