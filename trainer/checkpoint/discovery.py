"""Find the checkpoint that a run starts from: `resume=auto`, `never`, `restart`, or a path."""

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path

from torch import distributed

from trainer.checkpoint.collective import Ranks
from trainer.checkpoint.directory import CHECKPOINTS, checkpoints_directory, list_checkpoints, step_of
from trainer.checkpoint.manifest import MANIFEST_NAME, check_files, read_manifest
from trainer.checkpoint.trainer_state import STATE_NAME, read_state
from trainer.config.rules.surroundings import nearest_checkpoints
from trainer.config.schema import RESUME_KEYWORDS
from trainer.run_directory.directory import is_inside
from trireme.errors import ConfigError, Violation

MISSING = "does not exist"
_LOGGER = logging.getLogger(__name__)


def find_latest(run_directory: Path) -> Path | None:
    """Return the latest checkpoint of a run whose files are complete."""
    return next((path for path in list_checkpoints(run_directory) if not check_checkpoint(path)), None)


def candidates(resume: str, *, run_directory: Path) -> list[Path]:
    """List the checkpoints that `resume` allows, best first; their files have not been checked.

    Args:
        resume: auto, never, restart, or the path of a checkpoint, of a run directory, or of its checkpoints directory.
            A run that was forked from that path resumes from its own checkpoints. A run that restarts has moved its
            former files aside before this.
        run_directory: of the run that is starting.
    Raises:
        ConfigError: the path does not exist or contains no checkpoint.
    """
    if resume == "never":
        return []
    if resume in ("auto", "restart"):
        return list_checkpoints(run_directory)
    if names_other_run(resume, run_directory) and is_own_past(resume, own := list_checkpoints(run_directory)):
        return own
    path = Path(resume).expanduser()
    try:
        found = _checkpoints_at(path)
    except OSError as error:
        message = f"cannot be read: {error.strerror}"
        fix = "Use a directory that this user can read."
        raise ConfigError([Violation(path="resume", value=resume, message=message, fix=fix)]) from error
    if found:
        return found
    message = "contains no complete checkpoint" if path.exists() else MISSING
    fix = (
        f"Use {nearest_checkpoints(resume)}a directory step_NNNNNNNN that contains manifest.json, the directory of a"
        " run with such a checkpoint, or auto."
    )
    raise ConfigError([Violation(path="resume", value=resume, message=message, fix=fix)])


def names_other_run(resume: str, run_directory: Path) -> bool:
    """Return whether `resume` is a path outside the run that is starting."""
    return resume not in RESUME_KEYWORDS and not is_inside(Path(resume), run_directory)


def is_own_past(resume: str, own: Sequence[Path]) -> bool:
    """Return whether a run's own checkpoints show that it was forked from a path: the same command, run again."""
    for path in own:
        try:
            forked_from = read_state(path).forked_from
        except ConfigError:
            continue
        return bool(forked_from) and is_inside(Path(forked_from[-1].checkpoint), Path(resume).expanduser())
    return False


def check_checkpoint(path: Path, *, verify_hashes: bool = False, share: tuple[int, int] = (0, 1)) -> list[Violation]:
    """Return everything that is wrong with a checkpoint's files.

    Args:
        path: the checkpoint.
        verify_hashes: read every byte; otherwise files must exist with the right sizes, and the state be readable.
        share: (index, count) of the part of the files that this process checks.
    """
    index, count = share
    try:
        manifest = read_manifest(path)
        # Sorted by size, so that the shares are about equal.
        names = sorted(manifest.files, key=lambda name: (manifest.files[name].num_bytes, name))[index::count]
        violations = check_files(path, manifest, names=names, verify_hashes=verify_hashes)
        if STATE_NAME in names and not violations:
            read_state(path)
    except ConfigError as error:
        return list(error.violations)
    return violations


def resolve(resume: str, *, run_directory: Path) -> Path | None:
    """Choose the checkpoint to start from in this process alone, by file sizes; None starts a new run.

    Raises:
        ConfigError: there are candidates, but all are damaged; or the path contains none.
    """
    return _choose(resume, run_directory=run_directory, verify_hashes=False, ranks=Ranks(is_alone=True))


def choose_checkpoint(
    resume: str,
    *,
    run_directory: Path,
    verify: bool,
    at_or_before_step: int | None = None,
    process_group: distributed.ProcessGroup | None = None,
) -> Path | None:
    """Choose the checkpoint to start from; all ranks call this and get the same result. None starts a new run.

    A damaged candidate is logged with its damaged files, and the next older one is checked.

    Args:
        resume: see `candidates`.
        run_directory: of the run that is starting.
        verify: read every byte and compare sha256; the ranks share the files.
        at_or_before_step: skip checkpoints of later steps; None takes any. A rollback needs the latest valid state
            before a step; see `CheckpointManager.roll_back`.
        process_group: of all ranks; None takes the default one.
    Raises:
        ConfigError: there are candidates, but all are damaged; or the path contains none.
    """
    return _choose(
        resume,
        run_directory=run_directory,
        verify_hashes=verify,
        ranks=Ranks(process_group),
        at_or_before_step=at_or_before_step,
    )


def choose_at(path: Path, *, verify: bool, name: str = "PATH", is_alone: bool = False) -> Path:
    """Choose the latest valid checkpoint at a path. In a distributed job, all ranks call this, unless `is_alone`.

    Args:
        path: a run directory, its checkpoints directory, or a checkpoint; never a keyword of `resume`.
        verify: read every byte of the checkpoint and compare sha256.
        name: the user's name of the path, for messages.
        is_alone: this process looks for itself.
    Raises:
        ConfigError: there is none, or all are damaged.
    """
    # Absolute, so that a directory named auto is no keyword.
    absolute = path.expanduser().absolute()
    try:
        if is_alone:
            ranks = Ranks(is_alone=True)
            checkpoint = _choose(str(absolute), run_directory=absolute, verify_hashes=verify, ranks=ranks)
        else:
            checkpoint = choose_checkpoint(str(absolute), run_directory=absolute, verify=verify)
    except ConfigError as error:
        raise ConfigError(
            dataclasses.replace(
                violation,
                path=name,
                value=path,
                fix=f"Use a run directory that contains {CHECKPOINTS}/step_NNNNNNNN, or such a checkpoint.",
            )
            if violation.path == "resume"
            else violation
            for violation in error.violations
        ) from error
    assert checkpoint is not None
    return checkpoint


def _choose(
    resume: str, *, run_directory: Path, verify_hashes: bool, ranks: Ranks, at_or_before_step: int | None = None
) -> Path | None:
    def list_candidates() -> list[Path]:
        found = candidates(resume, run_directory=run_directory)
        return [path for path in found if at_or_before_step is None or step_of(path) <= at_or_before_step]

    paths = ranks.run_on_rank0(list_candidates, doing="looking for checkpoints")
    damage: dict[str, Violation] = {}
    for path in paths:
        answers = ranks.run_on_all_ranks(
            lambda path=path: check_checkpoint(path, verify_hashes=verify_hashes, share=(ranks.rank, ranks.size)),  # type: ignore[misc]
            doing=f"checking {path}",
        )
        found = {str(violation): violation for answer in answers for violation in answer}
        if not found:
            return path
        damage |= found
        if ranks.is_coordinator:
            _LOGGER.warning("Skipping the damaged checkpoint %s: %s", path, "; ".join(found))
    if damage:
        raise ConfigError(damage.values())
    return None


def _checkpoints_at(path: Path) -> list[Path]:
    """Return the checkpoint at a path, or those of the run directory or checkpoints directory there."""
    if (path / MANIFEST_NAME).is_file():
        return [path]
    found = list_checkpoints(path)
    if not found and path == checkpoints_directory(path.parent):
        found = list_checkpoints(path.parent)
    return found
